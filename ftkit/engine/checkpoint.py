"""Resume state on disk, each checkpoint whole or not at all.

A checkpoint is a position and tensors. Nothing else has state: order, augmentation, dropout and learning
rates are functions of the position.

    checkpoints/
      e0003-s00012/           3 whole epochs and 12 steps of the next
        model.safetensors  optimizer.safetensors  state.json  MANIFEST.json
      LATEST
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ftkit.engine.durable import replace_file, replace_folder, save_tensors
from ftkit.errors import FtkitError, RequestError

FORMAT = 1
MANIFEST = "MANIFEST.json"


@dataclass
class Progress:
    """How far a run is; the only mutable state besides the tensors.

    Attributes:
        epoch: Whole epochs done.
        step: Optimizer steps done of the next epoch.
        best: Best value of the monitored figure, None before the first.
        best_epoch: The epoch that reached it; 0 is the state before training.
        waited: Epochs since then.
        loss_sum, correct, seen: Totals over the images of the epoch under way.
        stopped: Whether early stopping has ended the run.
    """

    epoch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int = 0
    waited: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    stopped: bool = False


@dataclass(frozen=True)
class State:
    """What a checkpoint holds.

    Attributes:
        identity: What must be the same for the run to go on: seed, batch size, classes, data fingerprint.
        optimizer: torch's own state dict of the optimizer, without its hyperparameters.
        scaler: The fp16 loss scaler's state; empty in other precisions.
    """

    progress: Progress
    identity: Mapping[str, Any]
    model: Mapping[str, Tensor]
    optimizer: Mapping[int, Mapping[str, Any]]
    scaler: Mapping[str, Any]


def save_checkpoint(folder: Path, state: State, keep: int) -> Path:
    """Write a checkpoint under `folder`, point LATEST to it, then remove all but the newest `keep`.

    Raises:
        FtkitError: It can't be written; those already there are untouched.
    """
    name = f"e{state.progress.epoch:04d}-s{state.progress.step:05d}"
    folder.mkdir(exist_ok=True)
    replace_folder(folder / name, lambda target: _write(target, state))
    replace_file(folder / "LATEST", name.encode())
    for old in sorted(_whole_names(folder))[:-keep]:
        shutil.rmtree(folder / old)
    return folder / name


def load_checkpoint(folder: Path) -> tuple[State, tuple[str, ...]]:
    """The newest whole checkpoint under `folder`, and a line for each newer one that is damaged.

    Raises:
        RequestError: None is there, or none is whole, or they are of a newer format.
    """
    damaged: list[str] = []
    for name in sorted(_whole_names(folder), reverse=True):
        fault = _fault(folder / name)
        if fault is None:
            return _read(folder / name), tuple(damaged)
        damaged.append(f"{folder / name} is damaged: {fault}")
    if damaged:
        raise RequestError(f"no whole checkpoint in {folder}; {damaged[0]}", "start the run anew")
    raise RequestError(f"no checkpoint in {folder}", "the run stopped before its first one: start it anew")


def has_checkpoint(folder: Path) -> bool:
    """Whether there is one to go on from, be it damaged."""
    return any(_whole_names(folder))


def _whole_names(folder: Path) -> Iterator[str]:
    """Checkpoints that were written to their end; `.tmp-` folders are what a kill left."""
    if folder.is_dir():
        yield from (p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _write(target: Path, state: State) -> None:
    tensors, scalars = _split_optimizer(state.optimizer)
    save_tensors(target / "model.safetensors", state.model)
    save_tensors(target / "optimizer.safetensors", tensors)
    text = {
        "format": FORMAT,
        "progress": asdict(state.progress),
        "identity": dict(state.identity),
        "optimizer": scalars,
        "scaler": dict(state.scaler),
    }
    (target / "state.json").write_text(json.dumps(text, indent=1), encoding="utf-8")
    files = {p.name: {"sha256": _sha256(p), "size": p.stat().st_size} for p in sorted(target.iterdir())}
    (target / MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")


def _fault(checkpoint: Path) -> str | None:
    """Why a checkpoint can't be trusted, or None."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        for name, expected in files.items():
            if _sha256(checkpoint / name) != expected["sha256"]:
                return f"{name} doesn't have the hash of its manifest"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return f"{MANIFEST} can't be read"
    return None if {"model.safetensors", "optimizer.safetensors", "state.json"} <= set(files) else "a file is missing"


def _read(checkpoint: Path) -> State:
    text = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    if text["format"] > FORMAT:
        raise RequestError(f"{checkpoint} was written by a newer ftkit (format {text['format']})", "upgrade ftkit")
    try:
        tensors = load_file(checkpoint / "optimizer.safetensors")
        model = load_file(checkpoint / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise FtkitError(f"{checkpoint}: {error}") from None
    return State(
        Progress(**text["progress"]),
        text["identity"],
        model,
        _join_optimizer(tensors, text["optimizer"]),
        text["scaler"],
    )


def _split_optimizer(
    state: Mapping[int, Mapping[str, Any]],
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Tensors by `index/key` for safetensors, and the plain numbers beside them for JSON."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, values in state.items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{key}"] = value
            else:
                scalars.setdefault(str(index), {})[key] = value
    return tensors, scalars


def _join_optimizer(
    tensors: Mapping[str, Tensor], scalars: Mapping[str, Mapping[str, Any]]
) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in scalars.items()}
    for name, tensor in tensors.items():
        index, key = name.split("/", 1)
        state.setdefault(int(index), {})[key] = tensor
    return state


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
