"""A plugin's part of each kind, used by name in a run that is killed and resumed to the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import outside_plugin
from tests.conftest import typed
from tests.runs import records

CONFIG = """
plugins: [outside.py]
dataset: digits
train_samples: 160
backbone: lenet
strategy: {name: gradual, every: 1}
epochs: 4
workers: 0
batch_size: 16
seed: 5
monitor: outside/kappa
loss: {name: outside/poly, epsilon: 0.5}
optimizer: {name: outside/lion, lr: 0.0005, beta: 0.8}
lr_curve: {name: outside/saw, least: 0.3}
image_transforms: [{name: outside/stain, levels: 10}]
batch_transforms: [{name: outside/blend, most: 0.2}]
callbacks: [{name: outside/wander, scale: 0.0005}]
checkpoint: {every_steps: 3, min_seconds: 0}
"""


def ftkit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ftkit", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outside")
    (folder / "ftkit.yaml").write_text(CONFIG)
    shutil.copy(outside_plugin.__file__, folder / "outside.py")
    done = ftkit(folder, "train", "--name", "whole", "-q")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("checkpoint", [pytest.param("step-000004", marks=pytest.mark.long), "step-000021"])
def test_a_killed_run_resumes_to_the_same_bytes(project: Path, checkpoint: str) -> None:
    """Killed once a checkpoint past this step is there: in the first epoch, and in a later phase."""
    name, least = f"killed-{checkpoint}", int(checkpoint.rpartition("-")[2])
    run = project / "runs" / name
    process = subprocess.Popen(
        [sys.executable, "-m", "ftkit", "train", "--name", name, "-q"], cwd=project, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if steps_done(run) >= least:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.005)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
    resumed = ftkit(project, "train", "--resume", str(run), "-q")
    assert resumed.returncode == 0, resumed.stderr
    whole = project / "runs" / "whole"
    assert records(run) == records(whole)
    for model in ("model", "last"):
        weights = [(each / model / "model.safetensors").read_bytes() for each in (run, whole)]
        assert weights[0] == weights[1], model


def steps_done(run: Path) -> int:
    """Steps at the newest checkpoint, over all epochs; 0 where there is none."""
    try:
        newest = (run / "checkpoints" / "LATEST").read_text().strip()
        state = json.loads((run / "checkpoints" / newest / "state.json").read_text())["progress"]
    except (OSError, ValueError, KeyError):
        return 0
    return int(state["epoch"]) * 10 + int(state["step"])


@pytest.mark.long
def test_each_part_has_an_effect(project: Path) -> None:
    """A run without one of the parts ends elsewhere, or lacks what the part adds to the records."""
    whole = records(project / "runs" / "whole")
    assert all(record["wander_steps"] == 10 * int(str(record["epoch"])) for record in whole)
    assert all("val_outside/kappa" in record for record in whole)
    plain = {
        "loss": "loss.name=cross-entropy",
        "optimizer": "optimizer.name=adamw",
        "curve": "lr_curve.name=cosine",
        "image transform": "image_transforms=[]",
        "batch transform": "batch_transforms=[]",
        "callback": "callbacks=[]",
    }
    for part, setting in plain.items():
        name = part.replace(" ", "-")
        done = ftkit(project, "train", "--name", name, "-q", "--epochs", "1", "--strategy", "full", "--set", setting)
        assert done.returncode == 0, done.stderr
    done = ftkit(project, "train", "--name", "short", "-q", "--epochs", "1", "--strategy", "full")
    assert done.returncode == 0, done.stderr
    losses = {name: records(project / "runs" / name)[-1]["train_loss"] for name in (*map(dashed, plain), "short")}
    short = losses.pop("short")
    # A callback acts from the second step on, the others from the first.
    assert all(loss != short for loss in losses.values()), losses


def dashed(part: str) -> str:
    return part.replace(" ", "-")


def test_the_metric_is_evaluated_and_compared(project: Path) -> None:
    done = typed("evaluate", "whole", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 0 < found["outside/kappa"] <= found["accuracy"]
    shutil.copytree(project / "runs" / "whole", project / "runs" / "again")
    done = typed("compare", "whole", "again", "--metric", "outside/kappa", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "outside/kappa" in done.stdout


def test_the_exporter_writes_a_model_that_computes_the_same(project: Path) -> None:
    done = typed("export", "whole", "--format", "outside/program", "--to", "exported", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    assert (project / "exported" / "model.pt2").is_file()


def test_the_doctor_checks_every_part(project: Path) -> None:
    done = typed("plugins", "doctor", "outside", cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("kappa", "blend", "stain", "poly", "lion", "saw", "wander", "program"):
        assert f"outside/{name}" in done.stdout, done.stdout


def test_the_plan_names_every_part(project: Path) -> None:
    plan = typed("plan", cwd=project).stdout
    for name in ("kappa", "blend", "stain", "poly", "lion", "saw", "wander"):
        assert name in plan.lower(), plan
