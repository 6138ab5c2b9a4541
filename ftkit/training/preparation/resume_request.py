"""The run that `--resume` names, and its config, with changes that don't affect the result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ftkit.config.load import Resolved, resolve
from ftkit.config.schema import MOST_EPOCHS
from ftkit.distributed import launch_env
from ftkit.errors import RequestError
from ftkit.planning.plan_json import schedule_change
from ftkit.planning.run_plan import Plan
from ftkit.runs.run_folder import RunFolder
from ftkit.runs.run_lookup import find_run, run_folders
from ftkit.training.preparation.open_run import write_config, write_request

FREE = ("workers", "device", "checkpoint.", "cache.dir", "cache.decoded")
"""Settings that may change on resume; a dot at the end stands for a whole section."""
PLACES = ("path", "root", "source", "train", "val", "test")
"""Options of datasets that are locations of data, beside those whose type is a path."""


def latest_unfinished(runs_dir: Path) -> Path:
    """The newest run that stopped before its end and that no other process trains.

    Raises:
        RequestError: There is none.
    """
    folders = [RunFolder(run) for run in run_folders(runs_dir)]
    runs = [folder.path for folder in folders if not (folder.is_finished or folder.pruned.is_file())]
    waiting = [run for run in runs if not RunFolder(run).is_locked()]
    if waiting:
        return max(waiting, key=lambda run: run.stat().st_mtime_ns)
    if runs:
        raise RequestError(f"each unfinished run in {runs_dir} is being trained", "wait for it, or stop it")
    raise RequestError(f"--resume: no unfinished run in {runs_dir}", "ftkit runs list shows what there is")


def own_request(spec: str, runs_dir: Callable[[], Path], given: Callable[[Path], Resolved]) -> tuple[Path, Resolved]:
    """The run that `--resume` names, and its config with the changes that are allowed.

    Args:
        spec: A run folder, or a run's name.
        runs_dir: Returns the folder in which runs are looked up by name; called only where the spec is no folder.
        given: Overrides a config file by the flags given now.

    Raises:
        RequestError: There is no such run, or a setting differs from the run's own.
    """
    folder = Path(spec) if (Path(spec) / "config.yaml").is_file() else find_run(spec, runs_dir())
    config = folder / "config.yaml"
    if not config.is_file():
        raise RequestError(f"--resume {spec}: {config} is missing", "give another run")
    own, asked = resolve(config, {}, [], {}), given(config)
    before, now = (dict(_leaves(r.config.model_dump(mode="json"))) for r in (own, asked))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and not (key.startswith(FREE) or is_place(asked, key)):
            raise RequestError(
                f"{_place(asked, key)}: a run that is resumed keeps its own {key}", "drop it, or start a new run"
            )
    return folder, asked


def is_place(resolved: Resolved, key: str) -> bool:
    """Whether a setting is the location of the data, which may change; `keep_place` checks that it is the same data."""
    section, _, option = key.partition(".")
    if section != "dataset":
        return False
    hints = get_type_hints(resolved.registry.datasets.get(resolved.config.dataset.name))
    return option in PLACES or Path in (hints.get(option), *get_args(hints.get(option)))


def keep_place(run: RunFolder, plan: Plan) -> None:
    """If the data has another location now, write that into the run's config.

    Raises:
        RequestError: It isn't the data of the run.
    """
    own = resolve(run.config, {}, [], {}).config.dataset
    if own == plan.config.dataset:
        return
    if json.loads(run.plan.read_text(encoding="utf-8")).get("fingerprint") != plan.fingerprint:
        raise RequestError(
            f"{_place(plan.resolved, 'dataset')}: its images, labels or classes are not those of {run.path}",
            "give the new location of the run's data, or start a new run",
        )
    if launch_env.rank() == 0:
        write_config(run, plan.config)


def extended(resolved: Resolved, epochs: int) -> Resolved:
    """The config of a run with more epochs than it was planned with.

    The layer groups of the last epoch train in them, and the rates are those of a run of the new length.

    Raises:
        RequestError: There would be too many of them.
    """
    config = resolved.config
    if config.epochs + epochs > MOST_EPOCHS:
        raise RequestError(f"--extend {epochs}: a run has {MOST_EPOCHS:,} epochs at most", "give fewer")
    update = {"epochs": config.epochs + epochs, "extended_from": config.extended_from or config.epochs}
    return replace(resolved, config=config.model_copy(update=update))


def extend(run: RunFolder, plan: Plan) -> None:
    """Replace the plan in the run folder by the extended one.

    Raises:
        RequestError: The run has no checkpoint to resume from.
    """
    if plan.fold_sizes:
        raise RequestError(
            f"--extend: {run.path} is cross-fitted, and its model is an average of several trainings",
            "start a new run with --epochs, or with --budget none",
        )
    if not any(run.checkpoints.glob("e*")):
        raise RequestError(f"--extend: {run.path} has no checkpoint to resume from", "start a new run with --epochs")
    changed = schedule_change(json.loads(run.plan.read_text(encoding="utf-8")), plan)
    if changed is not None:
        raise RequestError(f"--extend: {run.path} can't resume: {changed}", "put it back as it was, or start a new run")
    # The last model is removed first: without it the run counts as stopped, not as finished.
    shutil.rmtree(run.last, ignore_errors=True)
    write_request(run, plan)


def _place(resolved: Resolved, key: str) -> str:
    """The flag or variable that sets another value of a key, or of its section."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        where = resolved.sources.get(".".join(parts[:length]), "")
        if where.startswith(("--", "FTKIT_")):
            return where
    return next((w for k, w in resolved.sources.items() if k.startswith(f"{parts[0]}.") and w.startswith("-")), key)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
