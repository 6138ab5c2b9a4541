"""Sets a sweep up: the space is checked, the study opened, and its request compared with that of this command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkit.config.load import is_path
from ftkit.errors import RequestError
from ftkit.experiments.sweeps.search_space import (
    FLAG,
    Point,
    ResolveWith,
    Space,
    default_space,
    make_space,
    parse_space,
    resolved_at,
    single_changes,
)
from ftkit.experiments.sweeps.study_storage import OpenStudy, keep_request, names_of, open_study, require_optuna
from ftkit.experiments.sweeps.sweep_trials import Sweep
from ftkit.experiments.trials import require_no_report, settings_of
from ftkit.planning.resolve import make_plan
from ftkit.planning.run_plan import Plan
from ftkit.training.preparation.resume_request import is_place

MACHINE_KEYS = ("cache", "checkpoint", "device", "name", "output", "plugins", "report", "tracker", "workers")
"""Sections in which the machines of a sweep may differ."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class SweepOptions:
    """What a sweep is given beside the config.

    Attributes:
        search: The values of `--search`.
        trials, budget, prune, take_over: See `Sweep`.
    """

    study: str
    search: tuple[str, ...]
    trials: int
    budget: float | None = None
    prune: bool = True
    take_over: bool = False


def prepare_sweep(options: SweepOptions, resolve_with: ResolveWith, tell: Tell) -> Sweep:
    """Check all of a sweep before its first trial, and open its study.

    Raises:
        RequestError: The space, the config or the data can't be used, or the study has other trials.
    """
    require_optuna()
    base = resolve_with(())
    require_no_report(base)
    name, _ = names_of(options.study)
    texts = parse_space(options.search)
    for key in texts:
        if base.is_explicit(key):
            raise RequestError(f"{base.where(key)} has no effect: {FLAG} {key} chooses it", "drop one of them")
    if not options.search:
        texts, notes = default_space(base.is_explicit, lambda point: _planned(point, resolve_with))
        for line in notes:
            tell(line)
    if not texts:
        raise RequestError("nothing is left to search: the command sets every key of the default space", f"give {FLAG}")
    space = make_space(texts, resolve_with)
    plans = [_planned(point, resolve_with) for point in single_changes(space)]
    first = plans[0]
    metric = _monitored(plans)
    opened = open_study(options.study, first.metrics[metric].lower_is_better)
    keep_request(opened, _request(first, texts, metric))
    return _sweep(options, resolve_with, opened, space, Path(base.config.output, name), first, metric)


def _sweep(
    options: SweepOptions,
    resolve_with: ResolveWith,
    opened: OpenStudy,
    space: Space,
    folder: Path,
    plan: Plan,
    metric: str,
) -> Sweep:
    return Sweep(
        opened,
        plan.resolved,
        resolve_with,
        space,
        folder,
        metric,
        plan.metrics[metric].label,
        options.trials,
        options.budget,
        options.prune,
        options.take_over,
    )


def _planned(point: Point, resolve_with: ResolveWith) -> Plan:
    """The plan of a run with these values.

    Raises:
        RequestError: There is none; the message names `--search` and the key.
    """
    resolved = resolved_at(point, resolve_with)
    try:
        return make_plan(resolved)
    except RequestError as error:
        text = error.message
        for key in point:
            text = text.replace(f"--set {key}", f"{FLAG} {key}")
        raise RequestError(text, error.hint) from None


def _monitored(plans: list[Plan]) -> str:
    """The monitored metric of all trials."""
    names = {plan.config.monitor for plan in plans}
    if len(names) > 1:
        raise RequestError(f"trials would be compared by {' and '.join(sorted(names))}", "give one with --monitor")
    return names.pop()


def _request(plan: Plan, texts: Mapping[str, str], metric: str) -> dict[str, Any]:
    """What all trials of a study have in common: settings but those of the machine, space, metric and data."""
    config, resolved = plan.config, plan.resolved
    settings = {
        key: value
        for key, value in settings_of(config).items()
        if key.partition(".")[0] not in MACHINE_KEYS and key not in texts and not is_place(resolved, key)
    }
    if config.weights is not None and is_path(config.weights):
        from ftkit.files.file_identity import file_sha256

        settings["weights"] = f"sha256 {file_sha256(Path(config.weights))}"
    return {"settings": settings, "search": dict(texts), "monitor": metric, "data": plan.fingerprint}
