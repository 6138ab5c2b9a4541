"""The files of one checkpoint, and the state that they hold.

Frozen tensors have a file of their own, which isn't written anew while it stays the same: a checkpoint hard-links it
from the last but one. So two neighbours never share a file, and damage to one leaves the other whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ftkit.errors import FtkitError, RequestError
from ftkit.files.durable import has_same_tensors, save_tensors
from ftkit.files.json_text import dump_json
from ftkit.runs.model_card import first_validation_error

FORMAT = 3
"""1 had no file of frozen tensors; until 2 the state of the best epoch and of early stopping was in `progress`."""
MANIFEST = "MANIFEST.json"
MODEL = "model.safetensors"
FROZEN = "frozen.safetensors"
OPTIMIZER = "optimizer.safetensors"
CALLBACKS = "callbacks.safetensors"
STATE = "state.json"
REQUIRED = {MODEL, OPTIMIZER, STATE}
TENSOR = "__tensor__"
"""Key that stands for a tensor in the JSON of a callback's state; its value is the tensor's name in `CALLBACKS`."""

Count = Annotated[int, Field(ge=0)]


@dataclass
class Progress:
    """The position of a run.

    Attributes:
        epoch: Whole epochs done.
        step: Optimizer steps done of the next epoch.
        loss_sum, correct, seen: Totals over the images of the epoch under way, over all processes.
        stopped: Whether a callback, such as early stopping, ends the run after the epoch.
        micro_batches: Into how many micro-batches each batch is divided, since it didn't fit into memory.
    """

    epoch: Count = 0
    step: Count = 0
    loss_sum: float = 0.0
    correct: Count = 0
    seen: Count = 0
    stopped: bool = False
    micro_batches: Annotated[int, Field(ge=1)] = 1

    @property
    def ended(self) -> bool:
        """Whether no further epoch trains; an epoch under way is trained to its end."""
        return self.stopped and not self.step


@dataclass(frozen=True)
class _Text:
    """`state.json`: all of the state that isn't tensors."""

    format: int
    progress: Progress
    identity: dict[str, Any]
    optimizer: dict[int, dict[str, int | float | bool | None]]
    scaler: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """What a checkpoint holds.

    Attributes:
        identity: What must be the same to resume: seed, batch size, classes, data fingerprint.
        optimizer: torch's own state dict of the optimizer, without its hyperparameters.
        scaler: State of the fp16 loss scaler; empty in other precisions.
        versions: The versions of ftkit, torch and the plugins that wrote it.
        frozen: Names of the model's tensors that are not expected to have changed since the last checkpoint.
        callbacks: The results of the callbacks' `state_dict`, by the callback's name.
    """

    progress: Progress
    identity: Mapping[str, Any]
    model: Mapping[str, Tensor]
    optimizer: Mapping[int, Mapping[str, Any]]
    scaler: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()
    callbacks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def write_state(target: Path, state: State, spare: Path | None) -> Mapping[str, Any]:
    """Write all files of a checkpoint but its manifest into an empty folder.

    Args:
        spare: Another checkpoint, whose file of frozen tensors may be linked.

    Returns:
        Hash and size of each file that was linked, by name.

    Raises:
        OSError: The disk is full or closed to us.
        RequestError: A callback's state isn't JSON values and tensors.
    """
    frozen = {name: tensor for name, tensor in state.model.items() if name in state.frozen}
    save_tensors(target / MODEL, {n: t for n, t in state.model.items() if n not in frozen})
    linked = _link_frozen(target / FROZEN, spare, frozen) if frozen and spare is not None else {}
    if frozen and not linked:
        save_tensors(target / FROZEN, frozen)
    tensors, scalars = _split_optimizer(state.optimizer)
    save_tensors(target / OPTIMIZER, tensors)
    of_callbacks: dict[str, Tensor] = {}
    callbacks = {name: _without_tensors(name, values, of_callbacks) for name, values in state.callbacks.items()}
    if of_callbacks:
        save_tensors(target / CALLBACKS, of_callbacks)
    text = _Text(
        FORMAT, state.progress, dict(state.identity), scalars, dict(state.scaler), dict(state.versions), callbacks
    )
    (target / STATE).write_text(dump_json(asdict(text), indent=1), encoding="utf-8")
    return linked


def read_state(checkpoint: Path) -> State:
    """The state in a checkpoint whose hashes are right; values are checked all the same, since anybody can hash.

    Raises:
        RequestError: A newer ftkit wrote it.
        FtkitError: ftkit didn't write it.
    """
    try:
        content = json.loads((checkpoint / STATE).read_bytes())
        if isinstance(content, dict) and isinstance(content.get("format"), int) and content["format"] > FORMAT:
            raise RequestError(
                f"{checkpoint} was written by a newer ftkit (format {content['format']})", "upgrade ftkit"
            )
        text = TypeAdapter(_Text).validate_python(_with_callbacks(content))
        optimizer = _join_optimizer(load_file(checkpoint / OPTIMIZER), text.optimizer)
        tensors = load_file(checkpoint / CALLBACKS) if (checkpoint / CALLBACKS).exists() else {}
        callbacks = {name: _put_tensors(values, tensors) for name, values in text.callbacks.items()}
        model = read_model(checkpoint)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise FtkitError(
            f"{checkpoint}: not a checkpoint that ftkit wrote: {first_validation_error(error)}", "remove it"
        ) from None
    return State(text.progress, text.identity, model, optimizer, text.scaler, text.versions, callbacks=callbacks)


def read_model(checkpoint: Path) -> dict[str, Tensor]:
    """The network's tensors in a checkpoint by name, frozen ones included.

    Raises:
        OSError, SafetensorError: A file can't be read.
    """
    model = load_file(checkpoint / MODEL)
    return model | load_file(checkpoint / FROZEN) if (checkpoint / FROZEN).exists() else model


def _link_frozen(target: Path, spare: Path, frozen: Mapping[str, Tensor]) -> dict[str, Any]:
    """Hard-link another checkpoint's file of frozen tensors, if it holds these bits; its hash and size."""
    with suppress(OSError, ValueError, KeyError, TypeError, SafetensorError):
        known = {FROZEN: dict(json.loads((spare / MANIFEST).read_bytes())[FROZEN])}
        if has_same_tensors(spare / FROZEN, frozen):
            target.hardlink_to(spare / FROZEN)
            return known
    return {}


def _with_callbacks(content: Any) -> Any:
    """The content of `state.json` with the states of callbacks, which formats 1 and 2 had in `progress`."""
    if not isinstance(content, dict) or content.get("format") not in (1, 2):
        return content
    progress, identity = content.get("progress"), content.get("identity")
    if not isinstance(progress, dict) or not isinstance(identity, dict):
        return content
    old = {"best": None, "best_epoch": 0, "waited": 0, "patience_best": None, "skipped": 0} | progress
    callbacks = {
        "best_epoch": {"value": old["best"], "epoch": old["best_epoch"]},
        "early_stopping": {
            "waited": old["waited"],
            "best": old["patience_best"],
            "epochs": identity.get("epochs", 0),
        },
        "nan_guard": {"skipped": old["skipped"]},
    }
    return {**content, "callbacks": callbacks}


def _without_tensors(name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """A callback's state with a placeholder for each of its tensors, which are added to `tensors`."""
    if isinstance(value, Tensor):
        tensors[str(len(tensors))] = value
        return {TENSOR: str(len(tensors) - 1)}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _without_tensors(name, item, tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_tensors(name, item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and isfinite(value)):
        return value
    raise RequestError(
        f"the state of callback {name!r} has {value!r:.100}, which can't be saved",
        "return finite numbers, text, tensors, and lists and dicts by text of them from state_dict",
    )


def _put_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The state that `_without_tensors` was given."""
    if isinstance(value, dict):
        if value.keys() == {TENSOR}:
            return tensors[value[TENSOR]]
        return {key: _put_tensors(item, tensors) for key, item in value.items()}
    return [_put_tensors(item, tensors) for item in value] if isinstance(value, list) else value


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
