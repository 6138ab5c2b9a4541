"""A plugin's loss, optimizer and learning-rate curve, named in a config: runs killed in the middle end the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import typed

PLUGIN = '''
import os
import signal
from dataclasses import dataclass

from ftkit.api import Curve, Loss, Optimizer, check_number, hookimpl


@dataclass(frozen=True)
class Margin(Loss):
    """A multi-class hinge loss.

    Attributes:
        margin: How far the right class must be ahead.
    """

    margin: float = 1.0

    def __post_init__(self):
        check_number("margin", self.margin, 0, above=True)

    def per_image(self, logits, targets, smoothing=0.0):
        import torch

        if os.environ.get("LOSS") == "raises":
            raise ValueError("no margin")
        if os.environ.get("LOSS") == "scalar":
            return logits.sum()
        right = logits.gather(1, targets[:, None])
        losses = (self.margin + logits - right).clamp(min=0).square().sum(1) - self.margin**2
        return (1 - smoothing) * losses + smoothing * logits.square().mean(1)


def lion():
    import torch

    class Lion(torch.optim.Optimizer):
        def __init__(self, params, lr, betas, weight_decay):
            super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    state = self.state[p]
                    if not state:
                        state["mean"], state["steps"] = torch.zeros_like(p), 0
                    state["steps"] += 1
                    if state["steps"] == int(os.environ.get("KILL_AT", "0")):
                        os.kill(os.getpid(), signal.SIGKILL)
                    first, second = group["betas"]
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.sub_(group["lr"] * (first * state["mean"] + (1 - first) * p.grad).sign())
                    state["mean"].mul_(second).add_(p.grad, alpha=1 - second)

    return Lion


@dataclass(frozen=True)
class Lion(Optimizer):
    """Lion (Chen et al., 2023)."""

    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01

    @property
    def state_values(self):
        return 1

    def build(self, groups, lr, fused=False):
        if os.environ.get("OPTIMIZER") == "raises":
            raise ValueError("no lion")
        if os.environ.get("OPTIMIZER") == "none":
            return None
        return lion()(groups, lr, self.betas, self.weight_decay)


@dataclass(frozen=True)
class Root(Curve):
    """Falls with the square root of the progress."""

    final: float = 0.1

    def shape(self, progress, epoch):
        return 1 + (self.final - 1) * progress**0.5


@hookimpl
def ftkit_losses():
    return {"margin": Margin}


@hookimpl
def ftkit_optimizers():
    return {"lion": Lion}


@hookimpl
def ftkit_curves():
    return {"root": Root}
'''
CONFIG = """
plugins: [mine.py]
backbone: lenet
strategy: full
epochs: 3
train_samples: 128
workers: 0
device: cpu
loss: {name: mine/margin, margin: 2}
label_smoothing: 0.1
balance: weights
optimizer: {name: mine/lion, lr: 1e-3, betas: [0.8, 0.99]}
lr_curve: {name: mine/root, final: 0.2, warmup_epochs: 0.5}
checkpoint: {every_steps: 2, min_seconds: 0}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "ftkit.yaml").write_text(CONFIG)
    return tmp_path


def state_of(run: Path) -> dict[str, bytes]:
    """Weights, best weights and optimizer state of a finished run."""
    newest = max((run / "checkpoints").iterdir(), key=lambda folder: folder.name)
    files = [*run.glob("*/model.safetensors"), newest / "model.safetensors", newest / "optimizer.safetensors"]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


@pytest.mark.long
def test_a_run_that_is_killed_resumes_to_the_same_bytes(project: Path) -> None:
    whole = typed("train", "--name", "whole", "-q", cwd=project)
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, "-m", "ftkit", "train", "--name", "killed", "-q"]
    killed = subprocess.run(command, cwd=project, env={**os.environ, "KILL_AT": "7"}, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    resumed = typed("train", "--resume", "killed", "-q", cwd=project)
    assert resumed.returncode == 0, resumed.stderr
    assert state_of(project / "runs" / "killed") == state_of(project / "runs" / "whole")
    assert len(state_of(project / "runs" / "whole")) > 2


def test_the_plan_and_the_config_name_the_parts_with_their_options(project: Path) -> None:
    plan = json.loads(typed("plan", "--json", cwd=project).stdout)
    assert plan["loss"] == {"name": "mine/margin", "margin": 2.0}
    expected = {"name": "mine/lion", "lr": 1e-3, "betas": [0.8, 0.99], "weight_decay": 0.01}
    assert plan["optimizer"] == expected
    shown = " ".join(typed("plan", cwd=project).stdout.split())
    for part in ("loss mine/margin, margin 2", "optimizer mine/lion, lr 0.001, betas (0.8, 0.99)", "mine/root curve"):
        assert part in shown
    assert json.loads(typed("config", "show", "--json", cwd=project).stdout)["config"]["loss"] == plan["loss"]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("loss.margin=0", "--set loss.margin is 0.0\nhint: give a number above 0"),
        ("loss.margn=0", "--set loss.margn: unknown key, did you mean 'margin'?"),
        ("loss=mine/margn", "unknown loss 'mine/margn'\nhint: did you mean 'mine/margin'?"),
        ("loss=asymmetric", "loss 'asymmetric' is for multilabel targets"),
        ("optimizer.betas=[1]", "--set optimizer.betas: must be 2 values or more, not [1]"),
        ("optimizer=mine/Lion", "unknown optimizer 'mine/Lion'\nhint: did you mean 'mine/lion'?"),
        ("lr_curve.final=x", "--set lr_curve.final: must be a number, not 'x'"),
    ],
)
def test_a_mistake_is_named_in_one_line(setting: str, says: str, project: Path) -> None:
    done = typed("plan", "--set", setting, cwd=project)
    assert done.returncode == 2
    assert says in done.stderr


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"LOSS": "raises"}, "plugin 'mine' failed in loss 'mine/margin': ValueError: no margin ("),
        ({"LOSS": "scalar"}, "loss 'mine/margin' returned shape (), not a tensor of shape ("),
        ({"OPTIMIZER": "raises"}, "plugin 'mine' failed in build of optimizer Lion: ValueError: no lion ("),
        ({"OPTIMIZER": "none"}, "build of optimizer Lion returned None"),
    ],
)
def test_a_part_that_fails_ends_the_run_with_its_name(fault: dict[str, str], says: str, project: Path) -> None:
    done = typed("train", "-q", cwd=project, env=fault)
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
