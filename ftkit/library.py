"""The library's two verbs for training; `ftkit.load` is the third."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ftkit import ranks
from ftkit.config.load import Resolved, resolve, to_yaml
from ftkit.config.schema import Config
from ftkit.errors import FtkitError
from ftkit.json_text import dump_json, utf8
from ftkit.planning import make_plan
from ftkit.run_folder import RunFolder, create_run
from ftkit.run_plan import Plan
from ftkit.spec.advice import AUTO
from ftkit.spec.dataset import Splits

if TYPE_CHECKING:
    from ftkit.engine.training.conclude import Outcome
    from ftkit.engine.training.events import Listener


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


def decide(resolved: Resolved, tell: Callable[[str], None] | None = None, run: RunFolder | None = None) -> Plan:
    """The plan of a request; for strategy `auto`, the data is measured first, which may take a minute.

    Args:
        tell: Called with a line before that, and where looking at the images takes long.
        run: As in `make_plan`.

    Raises:
        RequestError: A name, value or the data can't be used.
        FtkitError: The measurement failed: weights or an image couldn't be had.
    """
    settled, notes = settle(resolved, tell)
    decided = make_plan(settled, tell, run)
    return replace(decided, notes=(*notes, *decided.notes))


def settle(resolved: Resolved, tell: Callable[[str], None] | None = None) -> tuple[Resolved, tuple[str, ...]]:
    """A request with the advised strategy and rates in place of `auto`, and notes for its plan on why.

    Args and errors as in `decide`.
    """
    if resolved.config.strategy.name != AUTO:
        return resolved, ()
    from ftkit.engine.advise import consult

    counsel = consult(resolved, resolved.sources, tell)
    return counsel.resolved, counsel.notes


def train(plan: Plan, listener: Listener | None = None) -> Outcome:
    """Execute a plan in a new run folder, and say how it ended.

    Args:
        listener: Is called as the run goes on; subclass `ftkit.Listener`. What it raises ends the run.

    Raises:
        RequestError: The run's name is taken, or the machine can't do what was asked.
        FtkitError: The run failed; what it had written is kept.
    """
    from ftkit.engine.training.loop import train as run_plan

    return run_plan(plan, open_run(plan), listener)


def resume(run: str | os.PathLike[str], listener: Listener | None = None) -> Outcome:
    """Go on with a run that was stopped, to the very result it would have had.

    Args:
        listener: As in `train`.

    Raises:
        RequestError: The run has no checkpoint, is finished, or its data has changed.
    """
    from ftkit.engine.training.loop import train as run_plan

    folder = RunFolder(Path(run))
    plan = make_plan(resolve(folder.config, {}, [], {}), run=folder)
    return run_plan(plan, folder, listener, resume=True)


def open_run(plan: Plan) -> RunFolder:
    """A new run folder that holds the plan and the config that starts it again; one for all processes."""
    if ranks.world() == 1:
        return _create(plan)
    from ftkit.engine.distributed.processes import from_main
    from ftkit.engine.network.devices import join

    join(plan.config)
    return RunFolder(Path(from_main(lambda: str(_create(replace(plan, world=ranks.world())).path))))


def _create(plan: Plan) -> RunFolder:
    config: Config = plan.config
    folder = create_run(Path(config.output), config.name, config.backbone, config.strategy.name)
    write_request(folder, plan)
    _put(folder.splits, lambda file: write_splits(file, plan.splits))
    folder.append_list(folder.bad_images, plan.findings.bad)
    folder.append_list(folder.duplicates, plan.findings.duplicates)
    return folder


def write_request(folder: RunFolder, plan: Plan) -> None:
    """Write a run's config and plan into its folder, with the parameters counted, on the network where need be.

    Raises:
        FtkitError: They can't be written.
    """
    from ftkit.engine.network.model import counted

    write_config(folder, plan.config)
    _write(folder.plan, dump_json(counted(plan).to_json(), indent=1))


def write_config(folder: RunFolder, config: Config) -> None:
    """Write a run's config into its folder; errors as in `write_request`."""
    # A run that is started again from its config is another run: it gets a name of its own.
    _write(folder.config, to_yaml(config.model_copy(update={"name": None})))


def write_splits(file: TextIO, splits: Splits) -> None:
    """A line for each image: split, name and class, in the order in which the run has them."""
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(("split", "name", "label"))
    for name, split in splits.present():
        samples = zip(split.names, split.labels, strict=True)
        writer.writerows((name, utf8(sample), splits.classes[label]) for sample, label in samples)


def _write(path: Path, text: str) -> None:
    _put(path, lambda file: file.write(text))


def _put(path: Path, write: Callable[[TextIO], object]) -> None:
    """Write a file of a run, whole or not at all.

    Raises:
        FtkitError: It can't be written.
    """
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            write(file)
        temporary.replace(path)
    except OSError as error:
        raise FtkitError(f"{path} can't be written: {error.strerror or error}", "make room there") from error
