"""The library's two verbs for training; `ftkit.load` is the third."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.config.load import resolve
from ftkit.experiments.decide import decide
from ftkit.planning.resolve import make_plan
from ftkit.planning.run_plan import Plan
from ftkit.runs.run_folder import RunFolder
from ftkit.training.preparation.open_run import open_run

if TYPE_CHECKING:
    from ftkit.training.epoch_end import Outcome
    from ftkit.training.events import Listener


def plan(config: str | Path | None = None, **settings: Any) -> Plan:
    """Decide a run without doing any of it.

    Args:
        config: A config file; None is `ftkit.yaml` in the working folder, where there is one.
        settings: Keys of the config with their values: `backbone="resnet18"`,
            `dataset={"name": "folder", "root": "photos"}`, `optimizer={"lr": 0.01}`.

    Raises:
        RequestError: A key, name, value or the data can't be used.
    """
    flags = {key: (key, value) for key, value in settings.items()}
    return decide(resolve(Path(config) if config is not None else None, flags, [], {}))


def train(plan: Plan, listener: Listener | None = None) -> Outcome:
    """Execute a plan in a new run folder, and say how it ended.

    Args:
        listener: Is called as the run goes on; subclass `ftkit.Listener`. What it raises ends the run.

    Raises:
        RequestError: The run's name is taken, or the machine can't do what was asked.
        FtkitError: The run failed; what it had written is kept.
    """
    from ftkit.training.trainer import train as run_plan

    return run_plan(plan, open_run(plan), listener)


def resume(run: str | os.PathLike[str], listener: Listener | None = None) -> Outcome:
    """Go on with a run that was stopped, to the very result it would have had.

    Args:
        listener: As in `train`.

    Raises:
        RequestError: The run has no checkpoint, is finished, or its data has changed.
    """
    from ftkit.training.trainer import train as run_plan

    folder = RunFolder(Path(run))
    plan = make_plan(resolve(folder.config, {}, [], {}), run=folder)
    return run_plan(plan, folder, listener, resume=True)
