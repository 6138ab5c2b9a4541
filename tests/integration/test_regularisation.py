"""Stochastic depth and dropout of the backbone: set where it has them, exact, and of no effect in evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit import resume
from ftkit.errors import RequestError, RunInterrupted
from tests.conftest import MakeFolder, RunFtkit
from tests.runs import planner, records, weights
from tests.stopping import StopAt

PLUGIN = """
from ftkit.api import Backbone, LayerGroup, Preprocessing, hookimpl


def build(num_classes):
    from torch import nn
    from torchvision.ops import StochasticDepth

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)
            self.drop = nn.Dropout(0.0)
            self.drop_path = nn.Identity()

        def forward(self, x):
            return x + self.drop_path(self.drop(self.conv(x).relu()))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, stride=4)
            self.early, self.late = nn.Sequential(Block(), Block()), nn.Sequential(Block(), Block())
            self.fc = nn.Linear(4, num_classes)

        def forward(self, images):
            return self.fc(self.late(self.early(self.stem(images))).mean(dim=(2, 3)))

    return Net()


@hookimpl
def ftkit_backbones():
    groups = tuple(LayerGroup(name, name + "[.]") for name in ("stem", "early", "late", "fc"))
    return {"deep": Backbone("nets/deep", groups, ("fc",), build, Preprocessing(size=16, crop_pct=1.0))}
"""
planned = planner(
    plugins=["nets.py"],
    backbone="nets/deep",
    strategy="full",
    batch_size=5,
    epochs=3,
    precision="fp32",
    augment="none",
    optimizer={"name": "adamw", "lr": 0.01},
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    return image_folder(tmp_path_factory.mktemp("data"), {"train": {"a": 8, "b": 8}, "val": {"a": 4, "b": 4}})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))
    Path("nets.py").write_text(PLUGIN)


@pytest.mark.parametrize("setting", [{"drop_path": 0.5}, {"backbone_dropout": 0.5}], ids=lambda s: next(iter(s)))
def test_a_stopped_run_ends_with_the_same_bytes_and_the_setting_is_kept(setting: dict[str, Any], data: Path) -> None:
    ftkit.train(planned(data, "whole", **setting))
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, "cut", **setting), StopAt(4))
    resume(Path("runs", "cut"))
    ftkit.train(planned(data, "plain"))
    assert weights("whole") == weights("cut") != weights("plain")
    (key,) = setting
    assert f"{key}: 0.5" in Path("runs", "cut", "config.yaml").read_text()


def test_frozen_layers_are_cached_and_drop_nothing(data: Path) -> None:
    both = {"drop_path": 0.5, "backbone_dropout": 0.5, "strategy": "gradual", "epochs": 4}
    for name, use in (("cached", True), ("uncached", False)):
        ftkit.train(planned(data, name, cache={"use": use}, **both))
    for one, other in zip(records("cached"), records("uncached"), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=1e-5)
        assert one["val_loss"] == pytest.approx(other["val_loss"], abs=1e-5)


def test_tables_are_shared_with_runs_at_other_rates(data: Path, run_ftkit: RunFtkit) -> None:
    for name, rate in (("none", None), ("half", 0.5)):
        ftkit.train(planned(data, name, strategy="freeze", backbone_dropout=rate))
    tables = json.loads(run_ftkit("cache", "list", "--json", cwd=Path.cwd()).stdout)
    assert len(tables) == 2, "training and validation images"


def test_an_evaluated_model_is_unaffected(data: Path, run_ftkit: RunFtkit) -> None:
    ftkit.train(planned(data, "run", drop_path=0.5, backbone_dropout=0.5))
    last = records("run")[-1]
    Path("ftkit.yaml").write_text("plugins: [nets.py]\n")
    line = ["evaluate", "runs/run/last", "--split", "val", "--data", str(data), "--precision", "fp32", "--json"]
    done = run_ftkit(*line, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["loss"] == pytest.approx(last["val_loss"], abs=1e-6)
    assert "have changed" not in done.stderr


@pytest.mark.parametrize(("flag", "what"), [("--drop-path", "stochastic depth"), ("--backbone-dropout", "dropout")])
def test_a_backbone_without_such_layers_is_refused_by_name(
    flag: str, what: str, data: Path, run_ftkit: RunFtkit
) -> None:
    for command in ("plan", "train"):
        done = run_ftkit(command, "--data", str(data), "--backbone", "lenet", flag, "0.1", cwd=Path.cwd())
        assert done.returncode == 2
        assert f"backbone lenet has no {what}" in done.stderr
        assert done.stderr.splitlines()[-2].startswith(f"error: {flag}: backbone lenet")
    assert not list(Path().glob("runs/*"))
    shown = run_ftkit("plan", "--data", str(data), "--backbone", "swin_t", "--weights", "none", "--drop-path", "0.2")
    assert "drop path 0.2" in shown.stdout
    with pytest.raises(RequestError, match="drop_path"):
        planned(data, "run", drop_path=1.0)
