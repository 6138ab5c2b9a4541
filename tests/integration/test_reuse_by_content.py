"""Runs that are resumed or reused: their inputs are identified by content, not by name."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ftkit
from ftkit import resume
from ftkit.errors import RequestError, RunInterrupted
from tests.conftest import MakeFolder, RunFtkit
from tests.runs import Notes
from tests.stopping import StopAt

PLUGIN = r"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ftkit.api import Backbone, LayerGroup, Preprocessing, Strategy, hookimpl

@dataclass(frozen=True)
class Thaw(Strategy):
    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        *rest, head = groups
        return {head: 1.0} if epoch < 2 else {head: 1.0, rest[-1]: 0.1}

def build(num_classes):
    from torch import nn
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)
    )

TINY = Backbone(
    name="own/tiny",
    groups=(LayerGroup("stem", r"[0-3]\."), LayerGroup("head", r"4\.")),
    head=("4",),
    build=build,
    preprocessing=Preprocessing(size=32, crop_pct=1.0),
    min_size=8,
)

@hookimpl
def ftkit_backbones() -> Mapping[str, Backbone]:
    return {"tiny": TINY}

@hookimpl
def ftkit_strategies() -> Mapping[str, type[Strategy]]:
    return {"thaw": Thaw}
""".replace("\\\\\\\\", "\\\\")

SETTINGS: dict[str, Any] = {
    "backbone": "own/tiny",
    "strategy": "own/thaw",
    "weights": "tiny.pth",
    "epochs": 4,
    "batch_size": 6,
    "workers": 0,
    "augment": "none",
    "precision": "fp32",
    "probe": False,
}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_folder: MakeFolder) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))
    image_folder(tmp_path / "data", {"train": {"a": 6, "b": 6}, "val": {"a": 3, "b": 3}}, (32, 32))
    Path("ftkit.yaml").write_text("plugins: [./own.py]\ndataset: {name: folder, root: data}\n")
    edit("", "")
    new_weights(0)


def edit(before: str, after: str) -> None:
    assert before in PLUGIN
    Path("own.py").write_text(PLUGIN.replace(before, after) if before else PLUGIN)


def new_weights(seed: int) -> None:
    """Of the same size as the last ones."""
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, stride=4), *map(torch.nn.Identity, range(3)))
    torch.save(network.state_dict() | {"4.weight": torch.zeros(2, 8), "4.bias": torch.zeros(2)}, "tiny.pth")


def stopped(step: int = 3) -> Path:
    with pytest.raises(RunInterrupted):
        ftkit.train(ftkit.plan(**SETTINGS, name="run"), StopAt(step, signal.SIGTERM))
    return Path("runs/run")


def test_a_run_resumes_while_nothing_has_changed() -> None:
    edit("def build", "# A comment.\ndef build")
    run = stopped()
    edit("class Thaw(Strategy):", "class Thaw(Strategy):\n    'Another docstring.'\n")
    notes = Notes()
    resume(run, notes)
    assert not [line for line in notes.notes if "started" in line]
    whole = ftkit.train(ftkit.plan(**SETTINGS, name="whole")).run.path
    ends = [(path / "last" / "model.safetensors").read_bytes() for path in (run, whole)]
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("epoch < 2", "epoch < 3", r"in epoch 3, group 'stem' was trained at 0\.1 times the rate .*, now it is frozen"),
        ("rest[-1]: 0.1", "rest[-1]: 1e-4", r"in epoch 3, group 'stem' was trained at 0\.1 .* now it is .* 0\.0001 "),
        ("nn.ReLU()", "nn.ELU()", "the code or settings of own/tiny have changed since it started"),
        (
            "stride=4), nn",
            "stride=4, padding=0, dilation=1, padding_mode='reflect'), nn",
            "code or settings of own/tiny",
        ),
        ("size=32, crop_pct=1.0", "size=32, crop_pct=0.9", r"preprocessing was .* by plan\.json"),
    ],
)
def test_a_run_whose_plugin_was_edited_is_refused(before: str, after: str, says: str) -> None:
    run = stopped()
    edit(before, after)
    with pytest.raises(RequestError, match=says) as error:
        resume(run)
    assert error.value.hint == "put it back as it was, or start a new run"
    assert "\n" not in str(error.value)
    edit("", "")
    resume(run)


PARTS = {
    "__init__.py": PLUGIN.replace(
        "def build(num_classes):", "def build(num_classes):\n    from .net import Act"
    ).replace("nn.ReLU()", "Act()"),
    "net.py": """
from torch import nn
from . import ops

class Act(nn.Module):
    def forward(self, x):
        from .late import shifted
        return ops.scaled(shifted(x))
""",
    "ops.py": "from .constants import SCALE\n\ndef scaled(x):\n    return x * SCALE\n",
    "constants.py": "SCALE = 1.5\n",
    "late.py": "def shifted(x):\n    from . import deep\n    return x - deep.SHIFT\n",
    "deep.py": "SHIFT = 0.25\n",
}


@pytest.mark.parametrize(("file", "before", "after"), [("constants.py", "1.5", "0.5"), ("deep.py", "0.25", "0.75")])
def test_the_identity_includes_the_modules_that_a_networks_modules_import(file: str, before: str, after: str) -> None:
    Path("own.py").unlink()
    Path("own").mkdir()
    Path("ftkit.yaml").write_text("plugins: [./own]\ndataset: {name: folder, root: data}\n")
    for name, text in PARTS.items():
        Path("own", name).write_text(text)
    run = stopped()
    Path("own", file).write_text(PARTS[file].replace(before, after))
    with pytest.raises(RequestError, match="the code or settings of own/tiny have changed since it started"):
        resume(run)
    Path("own", file).write_text(PARTS[file])
    resume(run)


def test_a_model_whose_network_was_edited_since_is_reported(run_ftkit: RunFtkit) -> None:
    run = str(ftkit.train(ftkit.plan(**{**SETTINGS, "epochs": 1}, name="run")).run.path)
    commands = (
        ("evaluate", run),
        ("predict", "data/val/a", "--model", run),
        ("predict", "data/val/a", "--model", run, "--num-processes", "2"),
    )
    says = "the code or settings of own/tiny have changed since the model was trained"
    edit("def build", "# A comment.\ndef build")
    assert says not in run_ftkit(*commands[0]).stderr
    ftkit.load(run)
    edit("nn.ReLU()", "nn.ELU()")
    for command in commands:
        done = run_ftkit(*command)
        assert done.returncode == 0, done.stderr
        assert f"warning: {says}" in done.stderr
    with pytest.warns(UserWarning, match=says):
        ftkit.load(run)


def test_more_epochs_are_refused_where_the_strategy_was_edited(run_ftkit: RunFtkit) -> None:
    run = ftkit.train(ftkit.plan(**SETTINGS, name="run")).run.path
    plan, model = (run / "plan.json").read_text(), (run / "last" / "model.safetensors").read_bytes()
    edit("epoch < 2", "epoch < 3")
    done = run_ftkit("train", "--resume", str(run), "--extend", "1", "-q")
    assert done.returncode == 2
    assert "in epoch 3, group 'stem' was trained at 0.1" in done.stderr
    assert ((run / "plan.json").read_text(), (run / "last" / "model.safetensors").read_bytes()) == (plan, model)
    edit("", "")
    assert run_ftkit("train", "--resume", str(run), "--extend", "1", "-q").returncode == 0


def test_other_first_weights_and_images_are_reported(image_folder: MakeFolder, tmp_path: Path) -> None:
    run = stopped()
    new_weights(1)
    file = next(Path("data/train/a").iterdir())
    other = next(Path("data/train/b").glob(f"*{file.suffix}"))
    file.write_bytes(other.read_bytes())
    notes = Notes()
    resume(run, notes)
    log = "\n".join(notes.notes)
    assert "tiny.pth holds other weights than when the run started; it resumes from its checkpoint" in log
    assert "train images have changed since the run started" in log
    assert "val images have changed" not in log


def test_a_run_without_a_checkpoint_does_not_start_over_from_other_weights() -> None:
    plan = ftkit.plan(**SETTINGS, name="run")
    run = ftkit.train(plan).run.path
    for name in ("last", "model", "checkpoints"):
        for file in sorted((run / name).rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        (run / name).rmdir()
    new_weights(1)
    with pytest.raises(RequestError, match=r"no checkpoint .*tiny\.pth holds other weights"):
        resume(run)


LINE = (
    "--strategies",
    "own/thaw",
    "--seeds",
    "1",
    "--epochs",
    "3",
    "--workers",
    "0",
    "--batch-size",
    "6",
    "--no-probe",
)
MORE = ("--backbone", "own/tiny", "--weights", "tiny.pth", "--augment", "none", "--precision", "fp32", "--json")


def compared(run_ftkit: RunFtkit) -> tuple[list[str], str]:
    """The folders of the runs, and what is said."""
    done = run_ftkit("compare", *LINE, *MORE)
    assert done.returncode == 0, done.stderr
    return [Path(run["run"]).name for run in json.loads(done.stdout)["runs"]], done.stderr


def swap_images() -> None:
    for one in sorted(Path("data/train/a").iterdir()):
        other = Path("data/train/b") / one.name
        contents, times = (one.read_bytes(), other.read_bytes()), one.stat().st_mtime_ns
        one.write_bytes(contents[1])
        other.write_bytes(contents[0])
        os.utime(one, ns=(times, times))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda: new_weights(1), "holds other weights than those that it started from"),
        (lambda: edit("nn.ReLU()", "nn.ELU()"), "the code or settings of own/tiny have changed"),
        (
            lambda: edit("epoch < 2", "epoch < 1"),
            "strategy 'own/thaw' has changed: in epoch 2, group 'stem' was frozen",
        ),
        (swap_images, "its train images have changed"),
    ],
    ids=("weights", "network", "strategy", "images"),
)
def test_a_comparison_trains_afresh_what_was_made_of_other_things(
    change: Callable[[], None], says: str, run_ftkit: RunFtkit
) -> None:
    first, _ = compared(run_ftkit)
    kept = (Path("runs") / first[0] / "metrics.jsonl").read_text()
    again, _ = compared(run_ftkit)
    assert again == first
    change()
    afresh, printed = compared(run_ftkit)
    assert afresh == [f"{first[0]}-2"]
    assert says in printed
    assert (Path("runs") / first[0] / "metrics.jsonl").read_text() == kept
    assert compared(run_ftkit)[0] == afresh


def test_the_record_names_what_a_run_was_made_of() -> None:
    run = ftkit.train(ftkit.plan(**(SETTINGS | {"epochs": 1, "strategy": "freeze"}), name="run")).run
    found = json.loads(run.inputs.read_text())
    assert len(found["weights"]) == 64
    assert set(found["images"]) == {"train", "val"}
    assert "torch" in found["versions"]
    assert found["network"]["packages"]["torch"] == torch.__version__
