"""A loss that isn't a number: where it came from is said, and nothing that was good is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import ftkit
from ftkit import Plan, resume
from ftkit.cli.main import main
from ftkit.errors import FtkitError, RunInterrupted
from tests.conftest import MakeFolder
from tests.runs import records
from tests.stopping import StopAt

FRAGILE = '''
"""LeNet behind a BatchNorm, for which a white image is no number."""

from dataclasses import replace

from ftkit.api import LayerGroup, hookimpl
from tests.models import backbone


@hookimpl
def ftkit_backbones():
    known = backbone("lenet")
    groups = (LayerGroup("stem", r"(conv1|norm)\\."), *known.groups[1:])
    return {"fragile": replace(known, name="fragile", groups=groups, build=build, weights=(), summary=None)}


def build(num_classes):
    import torch

    class Fragile(type(backbone("lenet").build(2))):
        def __init__(self):
            super().__init__(num_classes)
            self.norm = torch.nn.BatchNorm2d(1)

        def forward(self, x):
            white = x.flatten(1).amin(1) > 2
            x = torch.where(white[:, None, None, None], torch.nan, x)
            return super().forward(self.norm(x))

    return Fragile()
'''


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plugin = tmp_path_factory.mktemp("plugin") / "net.py"
    plugin.write_text(FRAGILE)
    return plugin


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    """24 images to train on, one of them white."""
    data = image_folder(tmp_path_factory.mktemp("data"), {"train": {"a": 12, "b": 12}, "val": {"a": 3, "b": 3}})
    (white,) = data.glob("train/b/0005.*")
    Image.new("RGB", (40, 32), "white").save(white)
    return data


def settings(data: Path, fragile: Path, output: Path, **more: Any) -> dict[str, Any]:
    return {
        "plugins": [str(fragile)],
        "dataset": {"name": "folder", "root": str(data)},
        "output": str(output),
        "name": "run",
        "backbone": "net/fragile",
        "weights": "none",
        "strategy": "scratch",
        "batch_size": 4,
        "epochs": 2,
        "workers": 0,
        "augment": "none",
        "checkpoint": {"every_steps": 1, "keep": 99},
    } | more


def planned(data: Path, fragile: Path, output: Path, **more: Any) -> Plan:
    return ftkit.plan(**settings(data, fragile, output, **more))


def finite(weights: Path) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in load_file(weights).values())


def test_the_step_and_its_images_are_named_and_no_checkpoint_is_spoilt(
    data: Path, fragile: Path, tmp_path: Path
) -> None:
    with pytest.raises(FtkitError, match=r"not finite in epoch 1, step (\d), on .*b/0005\.") as caught:
        ftkit.train(planned(data, fragile, tmp_path))
    assert caught.value.exit_code == 1
    assert "--on-nan skip" in str(caught.value.hint)
    kept = sorted((tmp_path / "run" / "checkpoints").glob("e*/model.safetensors"))
    assert all(finite(weights) for weights in kept)
    step = int(str(caught.value).partition("step ")[2].partition(",")[0])
    assert [path.parent.name for path in kept] == [f"e0000-s{done:05d}" for done in range(1, step)]


def test_without_checkpoints_in_between_it_is_found_before_the_next(data: Path, fragile: Path, tmp_path: Path) -> None:
    with pytest.raises(FtkitError, match=r"not finite in epoch 1, step \d, on .*b/0005\."):
        ftkit.train(planned(data, fragile, tmp_path, checkpoint={"keep": 1}))
    assert not list((tmp_path / "run" / "checkpoints").glob("e*"))


def test_skip_leaves_the_step_out_counts_it_and_reports_it(
    data: Path, fragile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = settings(data, fragile, tmp_path, checkpoint={"keep": 2})
    path = tmp_path / "request.json.yaml"
    path.write_text(json.dumps(request))
    assert main(["train", "--config", str(path), "--on-nan", "skip"]) == 0
    printed = capsys.readouterr()
    assert "2 steps were skipped: loss or gradients were not finite" in printed.out
    assert "is left out: its loss or gradients are not finite, on" in printed.err
    assert "b/0005." in printed.err
    run = tmp_path / "run"
    epochs = records(run)
    assert [record["skipped_steps"] for record in epochs] == [1, 1]
    assert all(record["train_loss"] < 100 for record in epochs)
    assert finite(run / "last" / "model.safetensors")
    buffers = load_file(run / "last" / "model.safetensors")
    assert int(buffers["norm.num_batches_tracked"]) == 2 * 5, "a step left out changes no statistics"


def test_a_run_that_skips_can_be_stopped_as_any_other(data: Path, fragile: Path, tmp_path: Path) -> None:
    more = {"on_nan": "skip", "checkpoint": {"keep": 2}}
    ftkit.train(planned(data, fragile, tmp_path / "whole", **more))
    for step in (3, 5):
        output = tmp_path / str(step)
        with pytest.raises(RunInterrupted):
            ftkit.train(planned(data, fragile, output, **more), StopAt(step))
        outcome = resume(output / "run")
        assert [record["skipped_steps"] for record in outcome.records] == [1, 1]
        for name in ("last", "model"):
            weights = [root / "run" / name / "model.safetensors" for root in (tmp_path / "whole", output)]
            assert weights[0].read_bytes() == weights[1].read_bytes()


def test_where_every_step_is_wrong_the_run_ends(data: Path, fragile: Path, tmp_path: Path) -> None:
    with pytest.raises(FtkitError, match="every step of epoch 1 was left out"):
        ftkit.train(planned(data, fragile, tmp_path, batch_size=24, on_nan="skip"))
