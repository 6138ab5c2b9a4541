"""Precision `auto` by hardware, and the precision of resumed runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ftkit
from ftkit import Listener, RunStarted, resume
from ftkit.errors import RequestError, RunInterrupted
from ftkit.models.compute.devices import choose_precision, is_depthwise
from tests.conftest import MakeFolder
from tests.models import backbone
from tests.stopping import StopAt


def hardware(monkeypatch: pytest.MonkeyPatch, amx: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx})


@pytest.mark.parametrize(
    ("amx", "light", "expected"), [(True, False, "bf16"), (True, True, "fp32"), (False, False, "fp32")]
)
def test_auto_on_a_cpu(monkeypatch: pytest.MonkeyPatch, amx: bool, light: bool, expected: str) -> None:
    hardware(monkeypatch, amx)
    assert choose_precision("auto", "cpu", lambda: light) == expected
    assert choose_precision("fp32", "cpu", lambda: light) == "fp32"
    assert choose_precision("bf16", "cpu", lambda: light) == "bf16"


@pytest.mark.parametrize(("has", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_on_a_gpu(monkeypatch: pytest.MonkeyPatch, has: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    assert choose_precision("auto", "cuda", lambda: True) == expected


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(RequestError, match="fp16 doesn't work on the CPU"):
        choose_precision("fp16", "cpu", lambda: False)


@pytest.mark.parametrize(
    ("name", "light"),
    [("mobilenet_v3_small", True), ("efficientnet_b0", True), ("resnet18", False), ("convnext_tiny", False)],
)
def test_networks_with_depthwise_convolutions_and_batchnorm(name: str, light: bool) -> None:
    from ftkit.models.model_size import build_on_meta

    assert is_depthwise(build_on_meta(backbone(name), 2)) == light


class Noted(Listener):
    precision = ""

    def started(self, event: RunStarted) -> None:
        self.precision = event.precision


def test_a_resumed_run_keeps_its_precision(
    tmp_path: Path, image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = image_folder(tmp_path / "data", {"train": {"a": 4, "b": 4}, "val": {"a": 2, "b": 2}})
    hardware(monkeypatch, True)
    plan = ftkit.plan(
        dataset={"name": "folder", "root": str(data)},
        backbone="lenet",
        weights="none",
        strategy="full",
        epochs=2,
        batch_size=4,
        workers=0,
        device="cpu",
        output=str(tmp_path),
        name="run",
    )
    with pytest.raises(RunInterrupted):
        ftkit.train(plan, StopAt(1))
    hardware(monkeypatch, False)
    noted = Noted()
    resume(tmp_path / "run", noted)
    assert noted.precision == "bf16"
