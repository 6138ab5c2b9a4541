"""The contract of a callback: its state can be saved, and a resumed run ends as an uninterrupted one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftkit.api import Callback
from ftkit.testing.contract import require, require_picklable, run_plan_check
from ftkit.testing.short_run import ShortRun

NAME = "callback"
EPOCHS = 3
STOPS = (2, 3, 4)
"""Steps after which a run is stopped and resumed: within an epoch, at its end, and in the next one."""


def check_callback(callback: Callback) -> None:
    """Train some epochs with a callback, uninterrupted and resumed, which takes a few seconds.

    Raises:
        ContractError: The class isn't a dataclass, or its instance can't be pickled; its state has other values than
            JSON values and tensors; or a resumed run ends with another state, other records or other weights.
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
    """A run with the callback, resumed after a step if asked for, and the state in its last checkpoint."""
    from ftkit.config.field_types import Choice
    from ftkit.runs.checkpoint import load_checkpoint

    run = ShortRun(output, EPOCHS, {"callbacks": (callback,)})
    config = run.plan.config.model_copy(update={"callbacks": (Choice(name=NAME),)})
    run.plan = replace(run.plan, resolved=replace(run.plan.resolved, config=config))
    run_plan_check(run.train, stop_after)
    return run, load_checkpoint(run.folder.checkpoints)[0].callbacks.get(NAME, {})


def _is_same(one: object, other: object) -> bool:
    import torch

    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one.cpu(), other.cpu())
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return type(one) is type(other) and one == other


def _records(run: ShortRun) -> list[dict[str, Any]]:
    lines = run.folder.metrics.read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def _short(state: object) -> str:
    text = str(state)
    return text if len(text) <= 80 else f"{text[:77]}..."
