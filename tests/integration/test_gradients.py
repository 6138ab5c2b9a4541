"""What is said to train and gets no gradient is refused or named before a run; a run is the same for being asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import inside
from tests.conftest import MakeFolder, RunFtkit
from tests.runs import weights

PLUGIN = '''
from dataclasses import dataclass

import torch
from torch import nn

from ftkit.api import Backbone, LayerGroup, Preprocessing, Strategy, hookimpl


class Net(nn.Module):
    def __init__(self, classes, kind):
        super().__init__()
        self.kind = kind
        self.stem = nn.Conv2d(3, 8, 3, stride=4)
        self.middle = nn.Conv2d(8, 8, 1)
        self.branch = nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(8, classes)
        if kind == "idle_parameter":
            self.middle.register_parameter("spare", nn.Parameter(torch.zeros(3)))

    def forward(self, x):
        x = self.stem(x)
        if self.kind == "idle_group":
            with torch.no_grad():
                x = self.middle(x)
        else:
            x = self.middle(x)
        if self.kind != "branching" or not self.training or torch.rand(()) < 0.3:
            x = x + self.branch(x)
        return self.head(self.drop(self.norm(x)).mean((2, 3)))


def backbone(kind):
    groups = tuple(LayerGroup(n, n + "\\\\.") for n in ("stem", "middle", "branch", "norm", "head"))
    groups = (*groups[:-1], LayerGroup("head", r"(head|drop)\\."))
    return Backbone(kind, groups, ("head",), lambda classes: Net(classes, kind), Preprocessing(32))


@hookimpl
def ftkit_backbones():
    return {kind: backbone(kind) for kind in ("plain", "idle_group", "idle_parameter", "branching")}


@dataclass(frozen=True)
class Idle(Strategy):
    """Puts a parameter into the network that nothing uses."""

    def lr_scales(self, epoch, epochs, groups):
        return dict.fromkeys(groups, 1.0)

    def adapt(self, model, backbone):
        model.middle.register_parameter("adapter", nn.Parameter(torch.zeros(2)))
        return model


@hookimpl
def ftkit_strategies():
    return {"idle": Idle}
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    home = tmp_path_factory.mktemp("home")
    image_folder(home / "data", {"train": {"a": 9, "b": 9}, "val": {"a": 4, "b": 4}}, (32, 32))
    (home / "nets.py").write_text(PLUGIN)
    (home / "ftkit.yaml").write_text("plugins: [nets.py]\ndataset: {name: folder, root: data}\nweights: none\n")
    return home


def line(backbone: str, strategy: str, *more: str) -> tuple[str, ...]:
    small = ("--batch-size", "6", "--workers", "0", "--epochs", "2", "--no-cache")
    return ("train", "--backbone", f"nets/{backbone}", "--strategy", strategy, *small, *more)


def test_a_group_without_gradients_is_refused_and_no_run_is_left(home: Path, run_ftkit: RunFtkit) -> None:
    done = run_ftkit(*line("idle_group", "full", "--output", "none"), cwd=home)
    assert done.returncode == 2
    assert "strategy 'full' trains layer group 'stem', but none of its 2 parameters gets a gradient" in done.stderr
    assert "stem.weight, stem.bias" in done.stderr
    assert not list((home / "none").iterdir())
    assert run_ftkit(*line("idle_group", "freeze", "-q"), cwd=home).returncode == 0, "what is frozen needs none"


def test_what_a_strategy_adds_must_get_a_gradient(home: Path, run_ftkit: RunFtkit) -> None:
    done = run_ftkit(*line("plain", "nets/idle"), cwd=home)
    assert done.returncode == 2
    assert "strategy 'nets/idle' trains 1 parameters that get no gradient" in done.stderr
    assert "middle.adapter" in done.stderr


def test_a_single_parameter_is_named_and_the_rest_trains(home: Path, run_ftkit: RunFtkit) -> None:
    done = run_ftkit(*line("idle_parameter", "full"), cwd=home)
    assert done.returncode == 0, done.stderr
    assert "note: 1 of 3 parameters of middle get no gradient, so they stay as they are: middle.spare" in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("kind", ["idle_parameter", "branching"])
def test_several_processes_train_the_rest_too(kind: str, home: Path, run_ftkit: RunFtkit) -> None:
    """Those of a network that leaves branches out at random would wait for each other's gradients for ever."""
    done = run_ftkit(*line(kind, "full", "--num-processes", "2"), cwd=home)
    assert done.returncode == 0, done.stderr


def test_branches_that_are_left_out_at_random_are_no_fault(home: Path, run_ftkit: RunFtkit) -> None:
    done = run_ftkit(*line("branching", "full"), cwd=home)
    assert done.returncode == 0, done.stderr
    assert "no gradient" not in done.stderr


def test_a_run_is_the_same_for_being_asked(home: Path, run_ftkit: RunFtkit, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_ftkit(*line("plain", "gradual", "--name", "asked", "-q"), cwd=home).returncode == 0
    inside.skip_gradient_check(monkeypatch)
    assert run_ftkit(*line("plain", "gradual", "--name", "unasked", "-q"), cwd=home).returncode == 0
    assert weights(home / "runs" / "asked") == weights(home / "runs" / "unasked")
