"""Resume state on disk, each checkpoint whole or not at all.

A checkpoint is a position and tensors. Nothing else has state: order, augmentation, dropout and learning
rates are functions of the position.

    checkpoints/
      e0003-s00012/           3 whole epochs and 12 steps of the next
        model.safetensors  frozen.safetensors  optimizer.safetensors  state.json  MANIFEST.json
      LATEST

What is frozen lies in a file of its own, which is not written anew while it stays what it is: a checkpoint takes it, by
a second name, from the last but one. So two neighbours never share a file, and damage to one leaves the other whole.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ftkit.config.choices import PRECISIONS
from ftkit.errors import FtkitError, RequestError
from ftkit.files.durable import has_same_tensors, replace_file, replace_folder, save_tensors
from ftkit.files.json_text import dump_json
from ftkit.runs.model_card import first_validation_error

FORMAT = 2
"""1 had no file of what is frozen."""
MANIFEST = "MANIFEST.json"
FROZEN = "frozen.safetensors"
FILES = {"model.safetensors", "optimizer.safetensors", "state.json"}
_NAME = re.compile(r"e(\d{4,})-s(\d{5,})")


Count = Annotated[int, Field(ge=0)]


@dataclass
class Progress:
    """How far a run is; the only mutable state besides the tensors.

    Attributes:
        epoch: Whole epochs done.
        step: Optimizer steps done of the next epoch.
        best: Best value of the monitored metric, None before the first.
        best_epoch: The epoch that reached it; 0 is the state before training.
        waited: Epochs without a better one, since patience began to count.
        patience_best: The best value since then, None before the first.
        loss_sum, correct, seen: Totals over the images of the epoch under way.
        skipped: Steps of it that were left out, since their loss or gradients weren't finite.
        stopped: Whether early stopping has ended the run.
    """

    epoch: Count = 0
    step: Count = 0
    best: float | None = None
    best_epoch: Count = 0
    waited: Count = 0
    patience_best: float | None = None
    loss_sum: float = 0.0
    correct: Count = 0
    seen: Count = 0
    skipped: Count = 0
    stopped: bool = False


@dataclass(frozen=True)
class _Text:
    """`state.json`: all of the state that isn't tensors."""

    format: int
    progress: Progress
    identity: dict[str, Any]
    optimizer: dict[int, dict[str, int | float | bool | None]]
    scaler: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """What a checkpoint holds.

    Attributes:
        identity: What must be the same for the run to go on: seed, batch size, classes, data fingerprint.
        optimizer: torch's own state dict of the optimizer, without its hyperparameters.
        scaler: The fp16 loss scaler's state; empty in other precisions.
        versions: Of ftkit, torch and the plugins that wrote it.
        frozen: Names of the model's tensors that are not expected to have changed since the last checkpoint.
    """

    progress: Progress
    identity: Mapping[str, Any]
    model: Mapping[str, Tensor]
    optimizer: Mapping[int, Mapping[str, Any]]
    scaler: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()


def save_checkpoint(folder: Path, state: State, keep: int) -> Path:
    """Write a checkpoint under `folder`, point LATEST to it, then remove those that it makes superfluous.

    These are all but the newest `keep`, and those further on in the run, which are damaged or of a course that the
    run has left: as the newest ones they would else outlive the good ones.

    Raises:
        FtkitError: It can't be written; those already there are untouched.
    """
    name = f"e{state.progress.epoch:04d}-s{state.progress.step:05d}"
    folder.mkdir(exist_ok=True)
    others = [other for other in _names(folder) if other != name]
    spare = folder / others[-2] if len(others) > 1 else None
    replace_folder(folder / name, lambda target: _write(target, state, spare))
    replace_file(folder / "LATEST", name.encode())
    names = _names(folder)
    reached = names.index(name) + 1
    for old in names[: max(0, reached - keep)] + names[reached:]:
        shutil.rmtree(folder / old)
    return folder / name


def load_checkpoint(folder: Path, whole_epochs: bool = False) -> tuple[State, tuple[str, ...]]:
    """The newest whole checkpoint under `folder`, and a line for each newer one that is damaged.

    Args:
        whole_epochs: Look at those at the end of an epoch alone.

    Raises:
        RequestError: None is there, or none is whole, or they are of a newer format.
    """
    damaged: list[str] = []
    for name in reversed(_names(folder)):
        if whole_epochs and position(name)[1]:
            continue
        fault = _fault(folder / name)
        if fault is None:
            return _read(folder / name), tuple(damaged)
        damaged.append(f"{folder / name} is damaged: {fault}")
    if damaged:
        raise RequestError(f"no whole checkpoint in {folder}; {damaged[0]}", "start the run anew")
    if whole_epochs:
        raise RequestError(
            f"no checkpoint at the end of an epoch in {folder}", "go on with as many processes to the end of this one"
        )
    raise RequestError(f"no checkpoint in {folder}", "the run stopped before its first one: start it anew")


def has_checkpoint(folder: Path) -> bool:
    """Whether there is one to go on from, be it damaged."""
    return bool(_names(folder))


def precision_of(folder: Path) -> str | None:
    """What the newest checkpoint was computed in; None where there is none that tells."""
    for name in reversed(_names(folder)):
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads((folder / name / "state.json").read_bytes())["identity"]["precision"]
            return found if found in PRECISIONS else None
    return None


def position(name: str) -> tuple[int, int]:
    """Whole epochs, and steps of the next, of a checkpoint by its name."""
    found = _NAME.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else (-1, -1)


def _names(folder: Path) -> list[str]:
    """Checkpoints that were written to their end, oldest first; `.tmp-` folders are what a kill left."""
    if not folder.is_dir():
        return []
    return sorted((p.name for p in folder.iterdir() if _NAME.fullmatch(p.name) and p.is_dir()), key=position)


def _write(target: Path, state: State, spare: Path | None) -> None:
    tensors, scalars = _split_optimizer(state.optimizer)
    frozen = {name: tensor for name, tensor in state.model.items() if name in state.frozen}
    save_tensors(target / "model.safetensors", {n: t for n, t in state.model.items() if n not in frozen})
    known = _taken(target / FROZEN, spare, frozen) if frozen and spare is not None else {}
    if frozen and not known:
        save_tensors(target / FROZEN, frozen)
    save_tensors(target / "optimizer.safetensors", tensors)
    text = _Text(FORMAT, state.progress, dict(state.identity), scalars, dict(state.scaler), dict(state.versions))
    (target / "state.json").write_text(dump_json(asdict(text), indent=1), encoding="utf-8")
    (target / MANIFEST).write_bytes(_manifest(target, {*FILES, FROZEN} if frozen else FILES, known))


def _taken(target: Path, spare: Path, frozen: Mapping[str, Tensor]) -> dict[str, Any]:
    """Give another checkpoint's file of frozen tensors a second name, if it holds these bits; its hash and size."""
    with suppress(OSError, ValueError, KeyError, TypeError, SafetensorError):
        known = {FROZEN: dict(json.loads((spare / MANIFEST).read_bytes())[FROZEN])}
        if has_same_tensors(spare / FROZEN, frozen):
            target.hardlink_to(spare / FROZEN)
            return known
    return {}


def _manifest(checkpoint: Path, names: Collection[str], known: Mapping[str, Any] | None = None) -> bytes:
    """The hash and size of each file, always in the same words, so that every byte of it counts.

    Args:
        known: Of files that needn't be read for it.
    """
    known = known or {}
    paths = [checkpoint / name for name in sorted(names)]
    files = {p.name: known.get(p.name) or {"sha256": _sha256(p), "size": p.stat().st_size} for p in paths}
    return dump_json(files, indent=1).encode()


def _fault(checkpoint: Path) -> str | None:
    """Why a checkpoint can't be trusted, or None."""
    try:
        written = (checkpoint / MANIFEST).read_bytes()
        found = _manifest(checkpoint, {*FILES, FROZEN} if FROZEN.encode() in written else FILES)
        if written == found:
            return None
        expected, files = json.loads(written), json.loads(found)
        for name in files:
            if expected[name]["sha256"] != files[name]["sha256"]:
                return f"{name} doesn't have the hash of its manifest"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except OSError as error:
        return f"{Path(str(error.filename)).name} can't be read: {error.strerror}"
    except (ValueError, TypeError, KeyError):
        pass
    return f"{MANIFEST} isn't what ftkit wrote"


def _read(checkpoint: Path) -> State:
    """Its hashes are right, but anybody can make those: each value is looked at."""
    try:
        content = json.loads((checkpoint / "state.json").read_bytes())
        if isinstance(content, dict) and isinstance(content.get("format"), int) and content["format"] > FORMAT:
            raise RequestError(
                f"{checkpoint} was written by a newer ftkit (format {content['format']})", "upgrade ftkit"
            )
        text = TypeAdapter(_Text).validate_python(content)
        optimizer = _join_optimizer(load_file(checkpoint / "optimizer.safetensors"), text.optimizer)
        model = read_model(checkpoint)
    except (SafetensorError, OSError, ValueError) as error:
        raise FtkitError(
            f"{checkpoint}: not a checkpoint that ftkit wrote: {first_validation_error(error)}", "remove it"
        ) from None
    return State(text.progress, text.identity, model, optimizer, text.scaler, text.versions)


def read_model(checkpoint: Path) -> dict[str, Tensor]:
    """The network's tensors in a checkpoint, by name, those that are frozen too.

    Raises:
        OSError, SafetensorError: A file can't be read.
    """
    model = load_file(checkpoint / "model.safetensors")
    return model | load_file(checkpoint / FROZEN) if (checkpoint / FROZEN).exists() else model


def _split_optimizer(
    state: Mapping[int, Mapping[str, Any]],
) -> tuple[dict[str, Tensor], dict[int, dict[str, Any]]]:
    """Tensors by `index/key` for safetensors, and the plain numbers beside them for JSON."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[int, dict[str, Any]] = {}
    for index, values in state.items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{key}"] = value
            else:
                scalars.setdefault(index, {})[key] = value
    return tensors, scalars


def _join_optimizer(
    tensors: Mapping[str, Tensor], scalars: Mapping[int, Mapping[str, Any]]
) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {index: dict(values) for index, values in scalars.items()}
    for name, tensor in tensors.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = tensor
    return state


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
