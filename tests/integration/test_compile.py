"""`--compile`: the same training to the last digits, which resumes exactly, or one line says why not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import ftkit
from ftkit import resume
from ftkit.errors import FtkitError, RunInterrupted
from tests.conftest import MakeFolder
from tests.runs import tensors
from tests.stopping import StopAt

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="wants a C++ compiler where torch looks for it"),
]

SETTINGS: dict[str, Any] = {
    "backbone": "lenet",
    "weights": "none",
    "strategy": "gradual",
    "batch_size": 6,
    "workers": 0,
    "precision": "fp32",
    "device": "cpu",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    layout = {"train": {"a": 9, "b": 8}, "val": {"a": 4, "b": 3}}
    return image_folder(tmp_path_factory.mktemp("compile") / "data", layout)


@pytest.fixture
def settings(data: Path, tmp_path: Path) -> dict[str, Any]:
    return SETTINGS | {"dataset": {"name": "folder", "root": str(data)}, "output": str(tmp_path)}


def test_it_ends_as_without_it(settings: dict[str, Any], tmp_path: Path) -> None:
    for name in ("plain", "compiled"):
        ftkit.train(ftkit.plan(**settings, epochs=1, name=name, compile=name == "compiled"))
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    plain, compiled = (tensors(tmp_path / name) for name in ("plain", "compiled"))
    assert all(torch.allclose(compiled[name], tensor, atol=1e-5) for name, tensor in plain.items())


def test_without_a_compiler_it_is_one_line(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise torch._inductor.exc.InvalidCxxCompiler

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", fails)
    with pytest.raises(FtkitError, match=r"torch\.compile fails on this network: .*drop --compile"):
        ftkit.train(ftkit.plan(**settings, epochs=1, name="none", compile=True))


def test_it_resumes_exactly(settings: dict[str, Any], tmp_path: Path) -> None:
    plans = {name: ftkit.plan(**settings, epochs=3, name=name, compile=True) for name in ("whole", "cut")}
    ftkit.train(plans["whole"])
    with pytest.raises(RunInterrupted):
        ftkit.train(plans["cut"], StopAt(4))
    resume(tmp_path / "cut")
    files = [tmp_path / name / "last" / "model.safetensors" for name in plans]
    assert files[0].read_bytes() == files[1].read_bytes()
