"""`ftkit compare --strategies`: train strategies over seeds, and print their table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftkit.cli.output import console
from ftkit.errors import RequestError, RunInterrupted, one_line, plural

if TYPE_CHECKING:
    from ftkit.config.load import Resolved
    from ftkit.evaluation.evaluator import ComputeOptions
    from ftkit.experiments.trials import Trial, TrialResult
    from ftkit.parts.dataset import SplitName
    from ftkit.parts.metric import Metric
    from ftkit.parts.task import Task


def compare_strategies(
    strategies: Sequence[str],
    seeds: int,
    resolved: Resolved,
    split: SplitName | None,
    metrics_of: Callable[[Task], Mapping[str, Metric]],
    options: ComputeOptions,
    json: bool,
) -> None:
    """Train the missing runs of each strategy and seed, then print their metrics.

    Args:
        metrics_of: The metrics of the table for a task.
    """
    from ftkit.experiments.trials import evaluate_trial, plan_trials

    trials = plan_trials(resolved, strategies, seeds, console.note)
    splits, metrics = _splits(trials, split), metrics_of(trials[0].task)
    for number, trial in enumerate(trials, 1):
        _train(trial, f"run {number} of {len(trials)}")
    console.note(f"evaluating {plural(len(trials), 'run')}")
    results = [evaluate_trial(trial, splits, metrics, options) for trial in trials]
    if json:
        console.print_json(_summary(strategies, results, splits, metrics))
        return
    _show(strategies, results, splits, metrics, seeds)


def _splits(trials: Sequence[Trial], wanted: SplitName | None) -> tuple[SplitName, ...]:
    has_test = all(trial.has_test for trial in trials)
    if wanted == "test" and not has_test:
        raise RequestError("--split test: the data has no test split", "give --split val")
    return (wanted,) if wanted else ("val", "test") if has_test else ("val",)


def _train(trial: Trial, which: str) -> None:
    from ftkit.cli.output.training.progress import LiveDisplay, make_display
    from ftkit.experiments.trials import run_trial

    state = {"new": "", "stopped": ", resumed", "finished": ", already trained"}[trial.state]
    console.note(f"{which}: {trial.strategy}, seed {trial.seed}{state}")
    if trial.state == "finished":
        return
    display = make_display(trial.folder, trial.resolved.config.epochs, quiet=False)
    try:
        run_trial(trial, display)
    except RunInterrupted as error:
        hint = "run the same command again to resume"
        raise RunInterrupted(f"{which}: {error.message}", hint, error.exit_code - 128) from None
    finally:
        if isinstance(display, LiveDisplay):
            display.close()


def _show(
    strategies: Sequence[str],
    results: Sequence[TrialResult],
    splits: Sequence[SplitName],
    metrics: Mapping[str, Metric],
    seeds: int,
) -> None:
    from ftkit.cli.output.descriptions import full_count

    names = [f"{split} {one_line(metric.label)}" for split in splits for metric in metrics.values()]
    spread = ", mean ± standard deviation" if seeds > 1 else ""
    rows = []
    for strategy in strategies:
        mine = [one for one in results if one.trial.strategy == strategy]
        cells = [_spread([one.metrics[s][f] for one in mine], ".4f") for s in splits for f in metrics]
        epochs = f"{_spread([one.epoch for one in mine], '.1f')} of {_spread([one.epochs for one in mine], 'g', True)}"
        seconds = _spread([one.seconds for one in mine], ".1f")
        rows.append((strategy, *cells, epochs, seconds, full_count(mine[0].trainable)))
    columns = ("strategy", *names, "best epoch", "seconds", "trainable")
    console.show_table(f"{plural(seeds, 'seed')} per strategy{spread}", columns, rows)


def _spread(values: Sequence[float | None], form: str, bare: bool = False) -> str:
    from ftkit.experiments.trials import mean_and_spread

    mean, spread = mean_and_spread(values)
    if mean is None:
        return "-"
    return f"{mean:{form}}" if bare or spread is None else f"{mean:{form}} ± {spread:{form}}"


def _summary(
    strategies: Sequence[str],
    results: Sequence[TrialResult],
    splits: Sequence[SplitName],
    metrics: Mapping[str, Metric],
) -> dict[str, Any]:
    return {
        "strategies": [
            _series(name, [one for one in results if one.trial.strategy == name], splits, metrics)
            for name in strategies
        ],
        "runs": [
            {
                "run": str(one.trial.folder.path),
                "strategy": one.trial.strategy,
                "seed": one.trial.seed,
                **one.metrics,
                "best_epoch": one.epoch,
                "epochs": one.epochs,
                "seconds": one.seconds,
                "trainable": one.trainable,
            }
            for one in results
        ],
    }


def _series(
    name: str, mine: Sequence[TrialResult], splits: Sequence[SplitName], metrics: Mapping[str, Metric]
) -> dict[str, Any]:
    """Mean and standard deviation over the seeds."""
    from ftkit.experiments.trials import mean_and_spread

    def both(values: Sequence[float | None]) -> dict[str, float | None]:
        return dict(zip(("mean", "sd"), mean_and_spread(values), strict=True))

    return {
        "strategy": name,
        "seeds": [one.trial.seed for one in mine],
        **{split: {f: both([one.metrics[split][f] for one in mine]) for f in metrics} for split in splits},
        "best_epoch": both([one.epoch for one in mine]),
        "seconds": both([one.seconds for one in mine]),
        "trainable": mine[0].trainable,
    }
