"""The functions of the library that plan, train, resume and export; `ftkit.load` is in `ftkit.inference`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.config.load import resolve
from ftkit.experiments.auto_strategy import plan_run
from ftkit.planning.resolve import make_plan
from ftkit.planning.run_plan import Plan
from ftkit.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from ftkit.exporting.model_export import Export
    from ftkit.training.events import Listener
    from ftkit.training.train import Outcome


def plan(config: str | Path | None = None, **settings: Any) -> Plan:
    """Make the plan of a run without executing it.

    Args:
        config: A config file; by default `ftkit.yaml` in the working folder, if there is one.
        settings: Config keys with their values: `backbone="resnet18"`,
            `dataset={"name": "folder", "root": "photos"}`, `optimizer={"lr": 0.01}`.

    Raises:
        RequestError: A key, name, value or the data can't be used.
    """
    flags = {key: (key, value) for key, value in settings.items()}
    return plan_run(resolve(Path(config) if config is not None else None, flags, [], {}))


def train(plan: Plan, listener: Listener | None = None) -> Outcome:
    """Execute a plan in a new run folder.

    Args:
        listener: A subclass of `ftkit.Listener` that is called at the events of the run. An exception that it raises
            ends the run.

    Raises:
        RequestError: The run's name is taken, or the machine can't execute the plan.
        FtkitError: The run failed; the files that it had written are kept.
    """
    from ftkit.recipe_search.search_run import execute_plan, open_planned

    return _completed(plan, execute_plan(plan, open_planned(plan), listener), listener)


def resume(run: str | os.PathLike[str], listener: Listener | None = None) -> Outcome:
    """Resume a stopped run; it ends with the same bytes as an uninterrupted one.

    Args:
        listener: See `train`.

    Raises:
        RequestError: The run has no checkpoint, is finished, or its data has changed.
    """
    from ftkit.recipe_search.search_run import execute_plan

    folder = RunFolder(Path(run))
    plan = make_plan(resolve(folder.config, {}, [], {}), run=folder)
    return _completed(plan, execute_plan(plan, folder, listener, resume=True), listener)


def _completed(plan: Plan, outcome: Outcome, listener: Listener | None) -> Outcome:
    """Store features of a run and write its report, if its config asks for these; what is missing is a note."""
    from ftkit.reports.after_training import complete_run

    warn = listener.note if listener is not None else lambda line: None
    complete_run(outcome.plan or plan, outcome.run, warn)
    return outcome


def export(
    model: str | os.PathLike[str],
    format: str,  # noqa: A002 - as the flag is called
    to: str | os.PathLike[str],
    replace: bool = False,
    **options: Any,
) -> Export:
    """Write a trained model in another format, and compare the outputs of both.

    Args:
        model: A bundle, a run folder, the name of a run under `runs/`, or `PLUGIN/ADDRESS`.
        format: The name of an exporter: `torch-export`, `onnx`, or that of a plugin.
        to: The folder to create.
        replace: Replace an earlier export in that folder.
        options: Options of the exporter: `opset=18`.

    Raises:
        RequestError: A name, an option or the folder can't be used, or a package is missing.
        FtkitError: The exporter failed, or the outputs differ too much; nothing is left behind.
    """
    from ftkit.config.sources import from_flags
    from ftkit.exporting.model_export import SECTION, export_bundle
    from ftkit.models.model_source import locate_model

    settings = from_flags({f"{SECTION}.{name}": (name, value) for name, value in options.items()}, [])
    return export_bundle(locate_model(os.fspath(model), Path("runs")), format, Path(to), settings, replace)
