"""Small runs, and what tests read of them. A run is given by its folder, or by its name under `runs/`."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

import ftkit
from tests.conftest import typed

BASE: dict[str, Any] = {
    "backbone": "cifar_resnet20",
    "weights": "none",
    "batch_size": 6,
    "workers": 0,
    "epochs": 2,
    "report": False,
    "budget": None,
}
"""Settings of a run of seconds, one training with held-out images unless a test asks for more."""


def plan(data: Path, where: Path | str = "run", **settings: Any) -> ftkit.Plan:
    """The plan of a small run on an image folder.

    Args:
        where: The output folder, as a path; or the name of the run, as text.
        settings: They take precedence over `BASE`.
    """
    place = {"output": str(where)} if isinstance(where, Path) else {"name": where}
    return ftkit.plan(dataset={"name": "folder", "root": str(data)}, **(BASE | place | settings))


def checkpointed_often(data: Path) -> dict[str, Any]:
    """Settings of a run in phases on an image folder, with a checkpoint after every third step."""
    return {
        "backbone": "lenet",
        "weights": "none",
        "strategy": "gradual",
        "batch_size": 4,
        "epochs": 2,
        "workers": 0,
        "checkpoint": {"every_steps": 3},
        "report": False,
        "dataset": {"name": "folder", "root": str(data)},
    }


def planner(**settings: Any) -> Callable[..., ftkit.Plan]:
    """`plan` with the settings of a test module."""
    return lambda data, where="run", **more: plan(data, where, **(settings | more))


class Notes(ftkit.Listener):
    """Keeps the notes of a run."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def folder_of(run: Path | str) -> Path:
    return run if isinstance(run, Path) else Path("runs", run)


def json_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def records(run: Path | str) -> list[dict[str, Any]]:
    """The records of the epochs, without their times."""
    return without_times(json_lines(folder_of(run) / "metrics.jsonl"))


def weights(run: Path | str, model: str = "last") -> bytes:
    """The file of the last epoch's weights, or of `first` or `model`, the best."""
    return (folder_of(run) / model / "model.safetensors").read_bytes()


def tensors(run: Path | str, model: str = "last") -> dict[str, Tensor]:
    """The same as tensors by name."""
    return load_file(folder_of(run) / model / "model.safetensors")


def models(run: Path | str) -> dict[str, bytes]:
    """The weights of a finished run: first, best and last."""
    return {model: weights(run, model) for model in ("first", "model", "last")}


def newest_checkpoint(run: Path | str) -> Path:
    checkpoints = folder_of(run) / "checkpoints"
    return checkpoints / (checkpoints / "LATEST").read_text()


def is_whole(checkpoint: Path) -> bool:
    """Whether the files of a checkpoint are those of its manifest, by size and SHA-256."""
    manifest = json.loads((checkpoint / "MANIFEST.json").read_text())
    contents = {name: (checkpoint / name).read_bytes() for name in manifest}
    return len(manifest) > 1 and all(
        (facts["size"], facts["sha256"]) == (len(contents[name]), sha256(contents[name]).hexdigest())
        for name, facts in manifest.items()
    )


def result(run: Path | str) -> tuple[Any, ...]:
    """Weights, state of the optimizer and the run, and records of a finished run, without the times."""
    newest = newest_checkpoint(run)
    state = (newest / "optimizer.safetensors").read_bytes() + (newest / "state.json").read_bytes()
    return models(run), state, records(run)


def card(model: Path) -> dict[str, Any]:
    """What `model.json` says."""
    found: dict[str, Any] = json.loads((model / "model.json").read_text(encoding="utf-8"))
    return found


def config(run: Path | str) -> dict[str, Any]:
    """The config that a run has saved, as `ftkit config show` reads it."""
    done = typed("config", "show", "--config", str(folder_of(run) / "config.yaml"), "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["config"]
    return found


def summary(run: Path | str) -> dict[str, Any]:
    """What `ftkit runs show --json` prints."""
    done = typed("runs", "show", str(folder_of(run)), "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def cached_tables() -> list[dict[str, Any]]:
    """What `ftkit cache list --json` prints."""
    done = typed("cache", "list", "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
