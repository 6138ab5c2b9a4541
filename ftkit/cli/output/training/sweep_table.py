"""The table of a sweep's trials, and the config of the best one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.cli.output import console
from ftkit.errors import FtkitError, RequestError, one_line, plural, shell_word

if TYPE_CHECKING:
    from ftkit.config.schema import Config
    from ftkit.experiments.sweeps.study_storage import OpenStudy
    from ftkit.experiments.sweeps.sweep_results import TrialFacts
    from ftkit.experiments.sweeps.sweep_trials import Sweep

HEADER = "# The config of the best trial of a sweep, written by ftkit sweep, which replaces this file.\n"


def check_target(file: Path) -> None:
    """Check that a file for the best config isn't one that the user has written.

    Raises:
        RequestError: It is, or it can't be a file.
    """
    if file.is_dir() or not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
        raise RequestError(f"--to {file} can't be written", "give a file in an existing folder")
    if file.exists() and not file.read_text(encoding="utf-8", errors="replace").startswith(HEADER):
        raise RequestError(f"--to {file} exists, and isn't of ftkit sweep", "give another file, or remove it")


def report(opened: OpenStudy, to: Path | None, sweep: Sweep | None, json: bool) -> None:
    """Print the trials of a study and the best one, and write its config.

    Args:
        to: The file for the config; None for none.
        sweep: The sweep of this command; None where a study is only shown.
    """
    from ftkit.experiments.sweeps.sweep_results import best_of, trial_facts

    trials = trial_facts(opened)
    best = best_of(opened, trials)
    metric = str((opened.request() or {}).get("monitor", "value"))
    written = _write(to, best, sweep) if to is not None and best is not None else None
    if json:
        console.print_json(_facts(opened, trials, best, metric, written))
        return
    _show(opened, trials, metric)
    for line in _lines(trials, best, metric, written, opened.shown):
        console.print_text(line)


def command_of(file: Path) -> str:
    """The command that trains a config again."""
    return f"ftkit train --config {shell_word(file)}"


def _show(opened: OpenStudy, trials: Sequence[TrialFacts], metric: str) -> None:
    keys = list(dict.fromkeys(key for one in trials for key in one.values))
    rows = [
        (
            str(one.number),
            "" if one.value is None else f"{one.value:.4f}",
            one.state,
            "" if one.epochs is None else str(one.epochs),
            "" if one.seconds is None else f"{one.seconds:.1f}",
            *(_cell(one.values.get(key, "")) for key in keys),
        )
        for one in trials
    ]
    title = f"{opened.shown}: {plural(len(trials), 'trial')}"
    console.show_table(title, ("trial", f"val {one_line(metric)}", "state", "epochs", "seconds", *keys), rows)


def _lines(
    trials: Sequence[TrialFacts], best: TrialFacts | None, metric: str, written: Path | None, shown: str
) -> list[str]:
    lines = [f"trial {one.number} failed: {one_line(one.reason)}" for one in trials if one.state == "failed"]
    lines += [
        f"trial {one.number} is running on {one_line(one.machine)}; if stopped, the same command there resumes it"
        for one in trials
        if one.state == "running"
    ]
    if best is None:
        return [*lines, "no trial is finished"]
    lines.append(f"best trial {best.number}: validation {one_line(metric)} {best.value:.4f}")
    lines.append(f"run:             {one_line(str(_relative(best.run.path)))} on {one_line(best.machine)}")
    if written is not None:
        lines += [f"config:          {one_line(str(written))}", f"train it again:  {command_of(written)}"]
    else:
        lines.append(f"write its config: ftkit sweep --study {shell_word(shown)} --show --to best.yaml")
    return lines


def _facts(
    opened: OpenStudy, trials: Sequence[TrialFacts], best: TrialFacts | None, metric: str, written: Path | None
) -> dict[str, Any]:
    from ftkit.experiments.sweeps.sweep_results import is_lower_better

    return {
        "study": opened.shown,
        "metric": metric,
        "lower_is_better": is_lower_better(opened.study),
        "trials": [_trial(one) for one in trials],
        "best": None if best is None else _trial(best),
        "config": None if written is None else str(written),
        "command": None if written is None else command_of(written),
    }


def _trial(one: TrialFacts) -> dict[str, Any]:
    return {
        "number": one.number,
        "state": one.state,
        "values": dict(one.values),
        "value": one.value,
        "epochs": one.epochs,
        "seconds": one.seconds,
        "machine": one.machine,
        "run": str(one.run.path),
        "reason": one.reason,
    }


def _write(to: Path, best: TrialFacts, sweep: Sweep | None) -> Path:
    """Write the config of the best trial: as this machine would train it, or as its own machine did."""
    from ftkit.config.load import to_yaml
    from ftkit.files.durable import replace_file

    to.parent.mkdir(parents=True, exist_ok=True)
    replace_file(to, (HEADER + to_yaml(_config(best, sweep))).encode())
    return _relative(to)


def _config(best: TrialFacts, sweep: Sweep | None) -> Config:
    from ftkit.config.schema import Config
    from ftkit.experiments.sweeps.search_space import resolved_at

    if sweep is not None:
        return resolved_at(best.values, sweep.resolve_with).config.model_copy(update={"name": None})
    if best.config is None:
        raise FtkitError(f"trial {best.number} has no config in the study", "run the command of the sweep again")
    return Config.model_validate(best.config)


def _relative(path: Path) -> Path:
    return Path(os.path.relpath(path)) if path.is_absolute() and path.is_relative_to(Path.cwd()) else path


def _cell(value: str) -> str:
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return one_line(value)
