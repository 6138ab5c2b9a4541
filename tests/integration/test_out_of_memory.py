"""Memory that runs out in training is one line that names the batch size, and the checkpoint before it stays."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import MakeFolder
from tests.runs import records, weights

PLUGIN = """
from pathlib import Path

from ftkit.api import Backbone, LayerGroup, Preprocessing, hookimpl


def build(num_classes):
    import torch
    from torch import nn

    class Hungry(nn.Sequential):
        steps = 0

        def forward(self, images):
            if self.training and len(images) > 2:
                Hungry.steps += 1
                if Hungry.steps == int(Path("fails-at.txt").read_text()):
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has 1 GiB")
            return super().forward(images)

    return Hungry(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))


@hookimpl
def ftkit_backbones():
    groups = (LayerGroup("stem", "0."), LayerGroup("head", "[123]."))
    return {"hungry": Backbone("mine/hungry", groups, ("3",), build, Preprocessing(size=16))}
"""
TRAIN = (
    *(
        "train",
        "--data",
        "data",
        "--backbone",
        "mine/hungry",
        "--weights",
        "none",
        "--strategy",
        "full",
        "--epochs",
        "3",
        "-q",
    ),
    *("--batch-size", "8", "--precision", "fp32", "--device", "cpu", "--workers", "0", "-q"),
)


@pytest.fixture
def project(tmp_path: Path, image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> Path:
    image_folder(tmp_path / "data", {"train": {"a": 8, "b": 8}, "val": {"a": 2, "b": 2}})
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "ftkit.yaml").write_text("plugins: [mine.py]\ncheckpoint: {min_seconds: 0}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_names_the_batch_size_and_the_run_can_be_resumed(
    project: Path, run_ftkit: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (project / "fails-at.txt").write_text("0")
    assert run_ftkit(*TRAIN, "--name", "whole").returncode == 0
    (project / "fails-at.txt").write_text("3")
    done = run_ftkit(*TRAIN, "--name", "stopped")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == [
        "error: out of memory: could not allocate 20.00 MiB on cpu with 8 images of 16 x 16 pixels a batch, in the "
        "run, at epoch 2, step 1 of 2; the newest checkpoint is whole",
        "hint: give --batch-size 4 --accumulate 2, which keeps the size of a step, or --precision bf16, or a smaller "
        "--image-size",
    ]
    assert "Traceback" not in done.stderr
    (project / "fails-at.txt").write_text("0")
    resumed = run_ftkit("train", "--resume", "stopped", "-q")
    assert resumed.returncode == 0, resumed.stderr
    assert records("stopped") == records("whole")
    assert weights("stopped") == weights("whole")
