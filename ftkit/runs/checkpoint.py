"""Checkpoints of a run, each whole or not at all.

A checkpoint is a position, tensors and the state of callbacks. Nothing else has state: order, augmentation, dropout
and learning rates are functions of the position.

    checkpoints/
      e0003-s00012/           3 whole epochs and 12 steps of the next
        model.safetensors  frozen.safetensors  optimizer.safetensors  callbacks.safetensors  state.json  MANIFEST.json
      LATEST
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ftkit.config.choices import AUTO, PRECISIONS
from ftkit.errors import RequestError
from ftkit.files.durable import replace_file, replace_folder
from ftkit.files.file_identity import file_sha256
from ftkit.files.json_text import dump_json
from ftkit.runs.checkpoint_files import CALLBACKS, FROZEN, MANIFEST, REQUIRED, STATE, State, read_state, write_state

_NAME = re.compile(r"e(\d{4,})-s(\d{5,})")


def save_checkpoint(folder: Path, state: State, keep: int) -> Path:
    """Write a checkpoint under `folder`, point LATEST to it, then remove those that are superfluous now.

    These are all but the newest `keep`, and those further on in the run: they are damaged, or of a course that the
    run has left, and as the newest they would outlive the good ones.

    Raises:
        FtkitError: It can't be written; those already there are untouched.
        RequestError: A callback's state isn't JSON values and tensors.
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
        whole_epochs: Consider only those at the end of an epoch.

    Raises:
        RequestError: None is there, or none is whole, or a newer ftkit wrote it.
    """
    damaged: list[str] = []
    for name in reversed(_names(folder)):
        if whole_epochs and position(name)[1]:
            continue
        fault = _fault(folder / name)
        if fault is None:
            return read_state(folder / name), tuple(damaged)
        damaged.append(f"{folder / name} is damaged: {fault}")
    if damaged:
        raise RequestError(f"no whole checkpoint in {folder}; {damaged[0]}", "start the run anew")
    if whole_epochs:
        raise RequestError(
            f"no checkpoint at the end of an epoch in {folder}", "resume with as many processes to the end of this one"
        )
    raise RequestError(f"no checkpoint in {folder}", "the run stopped before its first one: start it anew")


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint, whole or damaged."""
    return bool(_names(folder))


def precisions_of(folder: Path) -> tuple[str, str] | None:
    """The precisions of training and validation in the newest checkpoint; None without a checkpoint that names them.

    A checkpoint from before validation had its own names one, which is that of both.
    """
    for name in reversed(_names(folder)):
        with suppress(OSError, ValueError, KeyError, TypeError):
            identity = json.loads((folder / name / STATE).read_bytes())["identity"]
            training = identity["precision"]
            found = training, identity.get("evaluation_precision", training)
            return found if {*found} <= {*PRECISIONS} - {AUTO} else None
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
    linked = write_state(target, state, spare)
    written = {path.name for path in target.iterdir()}
    (target / MANIFEST).write_bytes(_manifest(target, written, linked))


def _manifest(checkpoint: Path, names: Collection[str], known: Mapping[str, Any] | None = None) -> bytes:
    """The hash and size of each file, always in the same words, so that every byte of it counts.

    Args:
        known: Hashes and sizes of files that needn't be read for it.
    """
    known = known or {}
    paths = [checkpoint / name for name in sorted(names)]
    files = {p.name: known.get(p.name) or {"sha256": file_sha256(p), "size": p.stat().st_size} for p in paths}
    return dump_json(files, indent=1).encode()


def _fault(checkpoint: Path) -> str | None:
    """Why a checkpoint can't be trusted, or None."""
    try:
        written = (checkpoint / MANIFEST).read_bytes()
        found = _manifest(checkpoint, REQUIRED | {name for name in (FROZEN, CALLBACKS) if name.encode() in written})
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
