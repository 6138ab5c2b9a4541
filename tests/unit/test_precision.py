"""The precision of training and evaluation: by hardware and network with `auto`, then kept by runs and models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ftkit
from ftkit import Listener, RunStarted, resume
from ftkit.errors import RequestError, RunInterrupted
from ftkit.models.compute.precision import (
    NetworkTraits,
    Precision,
    choose_precision,
    evaluation_precision,
    traits_of,
)
from ftkit.models.model_size import build_on_meta
from tests.conftest import MakeFolder, typed
from tests.models import backbone
from tests.stopping import StopAt

LARGE, SMALL, DEPTHWISE = NetworkTraits(10**7), NetworkTraits(60_000), NetworkTraits(10**7, trains_depthwise=True)


def hardware(monkeypatch: pytest.MonkeyPatch, *instructions: str, name: str = "AMD EPYC") -> None:
    found = {"avx2": True, "cpu_name": name} | dict.fromkeys(instructions, True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)


@pytest.mark.parametrize(
    ("instructions", "traits", "training", "evaluation", "reason"),
    [
        (["amx_bf16", "avx512_bf16"], LARGE, "bf16", "bf16", "AMX"),
        (["avx512_bf16"], LARGE, "bf16", "bf16", "AVX-512 BF16"),
        (["avx512_bf16"], DEPTHWISE, "fp32", "bf16", "depthwise convolutions train faster in fp32"),
        (["avx512_bf16"], SMALL, "fp32", "fp32", "so small a network isn't faster in bf16"),
        ([], LARGE, "fp32", "fp32", "this CPU isn't faster in bf16"),
    ],
)
def test_auto_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
    instructions: list[str],
    traits: NetworkTraits,
    training: str,
    evaluation: str,
    reason: str,
) -> None:
    hardware(monkeypatch, *instructions)
    assert choose_precision("auto", "cpu", lambda: traits) == Precision(training, evaluation, reason)
    for asked in ("fp32", "bf16"):
        assert choose_precision(asked, "cpu", lambda: traits) == Precision(asked, asked)


@pytest.mark.parametrize(("more", "expected"), [((), "fp32"), (("amx_bf16",), "bf16")])
def test_intel_processors_are_fast_in_bf16_with_amx_alone(
    monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], expected: str
) -> None:
    hardware(monkeypatch, "avx512_bf16", *more, name="Intel Xeon")
    found = choose_precision("auto", "cpu", lambda: LARGE)
    assert (found.training, found.evaluation) == (expected, expected)


@pytest.mark.parametrize(("has", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_on_a_gpu(monkeypatch: pytest.MonkeyPatch, has: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    found = choose_precision("auto", "cuda", lambda: DEPTHWISE)
    assert (found.training, found.evaluation) == (expected, expected)


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(RequestError, match="fp16 doesn't work on the CPU"):
        choose_precision("fp16", "cpu", lambda: LARGE)


@pytest.mark.parametrize(
    ("name", "depthwise"),
    [("mobilenet_v3_small", True), ("efficientnet_b0", True), ("resnet18", False), ("convnext_tiny", False)],
)
def test_networks_whose_depthwise_convolutions_train_beside_batchnorm(name: str, depthwise: bool) -> None:
    network = build_on_meta(backbone(name), 2)
    every = [name for name, _ in network.named_parameters()]
    assert traits_of(network, every).trains_depthwise == depthwise
    assert not traits_of(network, every[-2:]).trains_depthwise, "of the head alone"
    assert not traits_of(network).trains_depthwise


@pytest.mark.parametrize(
    ("instructions", "stated", "expected"),
    [
        (["avx512_bf16"], "bf16", "bf16"),
        (["avx512_bf16"], "fp32", "fp32"),
        (["avx512_bf16"], "auto", "bf16"),
        ([], "auto", "fp32"),
        ([], "fp32", "fp32"),
    ],
)
def test_a_model_is_evaluated_in_the_precision_of_its_validation(
    monkeypatch: pytest.MonkeyPatch, instructions: list[str], stated: str, expected: str
) -> None:
    hardware(monkeypatch, *instructions)
    assert evaluation_precision("auto", stated, "cpu", lambda: LARGE) == (expected, "")


@pytest.mark.parametrize("stated", ["bf16", "fp16"])
def test_hardware_without_that_precision_computes_in_fp32_and_warns(
    monkeypatch: pytest.MonkeyPatch, stated: str
) -> None:
    hardware(monkeypatch)
    chosen, warning = evaluation_precision("auto", stated, "cpu", lambda: LARGE)
    assert (chosen, warning.startswith(f"validated in {stated}, computed in fp32 here")) == ("fp32", True)
    assert evaluation_precision("bf16", stated, "cpu", lambda: LARGE) == ("bf16", "")


class Noted(Listener):
    start: RunStarted

    def started(self, event: RunStarted) -> None:
        self.start = event


def settings(folder: Path, network: str, **more: Any) -> dict[str, Any]:
    return {
        "dataset": {"name": "folder", "root": str(folder / "data")},
        "backbone": network,
        "preprocessing": {"size": 32},
        "weights": "none",
        "strategy": "full",
        "epochs": 2,
        "batch_size": 4,
        "workers": 0,
        "device": "cpu",
        "output": str(folder),
        "name": "run",
        **more,
    }


@pytest.mark.parametrize(
    ("name", "training", "evaluation"), [("cifar_resnet20", "bf16", "bf16"), ("mobilenet_v3_small", "fp32", "bf16")]
)
def test_a_resumed_run_and_its_model_keep_their_precision(
    tmp_path: Path,
    image_folder: MakeFolder,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    training: str,
    evaluation: str,
) -> None:
    image_folder(tmp_path / "data", {"train": {"a": 4, "b": 4}, "val": {"a": 2, "b": 2}})
    hardware(monkeypatch, "avx512_bf16")
    with pytest.raises(RunInterrupted):
        ftkit.train(ftkit.plan(**settings(tmp_path, name)), StopAt(1))
    hardware(monkeypatch)
    noted = Noted()
    resume(tmp_path / "run", noted)
    assert (noted.start.precision, noted.start.evaluation_precision) == (training, evaluation)
    assert noted.start.precision_reason == "as in the checkpoint"
    with pytest.warns(UserWarning, match="validated in bf16, computed in fp32 here"):
        assert ftkit.load(tmp_path / "run").precision == "fp32"
    hardware(monkeypatch, "amx_bf16")
    assert ftkit.load(tmp_path / "run").precision == evaluation


def test_validation_evaluate_and_the_cache_agree_where_training_has_another_precision(
    tmp_path: Path, image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_folder(tmp_path / "data", {"train": {"a": 6, "b": 6}, "val": {"a": 4, "b": 4}})
    hardware(monkeypatch, "avx512_bf16")
    more = {"strategy": {"name": "milestones", "milestones": [1, 3], "num_layers": 2}, "epochs": 4, "augment": "none"}
    more["optimizer"] = {"name": "sgd", "lr": 0.05}  # Logits of untrained weights are close to 0.
    losses, noted = {}, Noted()
    for name, use in (("cached", True), ("uncached", False)):
        given = settings(tmp_path, "shufflenet_v2_x0_5", name=name, probe=False, **more)
        records = ftkit.train(ftkit.plan(**given, cache={"use": use, "dir": str(tmp_path / "cache")}), noted).records
        losses[name] = [record["val_loss"] for record in records]
    assert len([one for one in (tmp_path / "cache").iterdir() if one.is_dir()]) >= 2, "of training and validation"
    assert losses["cached"] == pytest.approx(losses["uncached"], abs=1e-5)

    def evaluated(*flags: str) -> dict[str, Any]:
        return dict(json.loads(typed("evaluate", str(tmp_path / "cached/last"), "--json", *flags).stdout))

    for found in (evaluated(), evaluated("--no-cache")):
        assert found["precision"] == "bf16"
        assert found["loss"] == pytest.approx(losses["cached"][-1], abs=1e-6)
    assert abs(evaluated("--precision", "fp32")["loss"] - losses["cached"][-1]) > 1e-6, "the comparison can fail"
    assert noted.start.precision_reason == "depthwise convolutions train faster in fp32"
