"""The contract of a callback: its state can be saved, and a resumed run ends as an uninterrupted one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.api import Callback, RequestError
from ftkit.testing.contract import ContractError, require, require_picklable
from ftkit.testing.short_run import ShortRun

if TYPE_CHECKING:
    from ftkit.planning.run_plan import Plan

NAME = "callback"
EPOCHS = 3
STOPS = (2, 3, 4)
"""Steps after which a run is stopped and resumed: within an epoch, at its end, and in the next one."""


def check_callback(callback: Callback) -> None:
    """Train some epochs with a callback, uninterrupted and resumed, which takes a few seconds.

    Raises:
        ContractError: The class isn't a dataclass, or its instance can't be pickled; its state can't be saved;
            or a resumed run ends with another state, other records or other weights.
    """
    parameters = vars(type(callback)).get("__dataclass_params__")
    require(parameters is not None, f"{type(callback).__name__} is not a dataclass", "write @dataclass above the class")
    require_picklable(callback)
    with tempfile.TemporaryDirectory() as scratch:
        whole, state = _run(Path(scratch, "whole"), callback)
        for stop in STOPS:
            where = f"after a stop at step {stop} and a resume"
            resumed, other = _run(Path(scratch, f"stop-{stop}"), callback, stop)
            require(_is_same(other, state), f"{where} its state differs: {_short(other)}, not {_short(state)}", STATE)
            require(_records(resumed) == _records(whole), f"{where} the records of the epochs differ", STATE)
            require(resumed.weights() == whole.weights(), f"{where} the weights differ", STATE)


STATE = "save all that changes during a run in state_dict(), and restore it in load_state_dict()"


def _run(output: Path, callback: Callback, stop_after: int | None = None) -> tuple[ShortRun, Mapping[str, Any]]:
    """A run with a copy of the callback, or two where it is resumed, and the final state."""
    run = ShortRun(output, EPOCHS, {"callbacks": ()})
    run.plan, last = _with_copy(run.plan, callback)
    resume_with = None
    if stop_after is not None:
        resume_with, last = _with_copy(run.plan, callback)
    try:
        run.train(stop_after, resume_with)
    except RequestError as error:  # such as a state that can't be saved
        raise ContractError(error.message, error.hint) from error
    state = last.state_dict()
    require(isinstance(state, Mapping), f"state_dict() returned {type(state).__name__}, not a mapping")
    return run, deepcopy(state)


def _with_copy(plan: Plan, callback: Callback) -> tuple[Plan, Callback]:
    from ftkit.config.field_types import Choice

    config = plan.config.model_copy(update={"callbacks": (Choice(name=NAME),)})
    copy = deepcopy(callback)
    return replace(plan, resolved=replace(plan.resolved, config=config), callbacks=(copy,)), copy


def _is_same(one: object, other: object) -> bool:
    import torch

    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one.cpu(), other.cpu())
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return type(one) is type(other) and one == other


def _records(run: ShortRun) -> list[dict[str, Any]]:
    lines = run.folder.metrics.read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def _short(state: object) -> str:
    text = str(state)
    return text if len(text) <= 80 else f"{text[:77]}..."
