"""The last lines of `ftkit train`: what a run has found, and what to do with its model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftkit.cli.output.evaluating.calibration_lines import fitted_lines
from ftkit.cli.output.training.search_table import search_json, search_lines
from ftkit.errors import one_line, plural, shell_word

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ftkit.planning.run_plan import Plan
    from ftkit.training.train import Outcome

EXAMPLE = "digits"
"""The dataset that comes with ftkit; after it, a hint shows how to train on other data."""


def result_lines(plan: Plan, outcome: Outcome, quiet: bool) -> list[str]:
    """Lines of text on a finished run; with `quiet` without the weight drift."""
    from ftkit.runs.model_card import read_card

    searched = search_lines(plan, outcome)
    plan = outcome.plan or plan
    lines = [*searched, *(_cross_fitting_lines(plan, outcome) if plan.fold_sizes else _lines(plan, outcome, quiet))]
    run = outcome.run
    lines += [
        *fitted_lines(read_card(run.model).calibration),
        f"model: {run.model}",
        f"evaluate it:               ftkit evaluate {shell_word(run.path)}",
        f"predict your images:       ftkit predict IMAGE_OR_FOLDER --model {shell_word(run.path)}",
    ]
    if plan.config.dataset.name == EXAMPLE:
        lines.append("train on your own folder:  ftkit train --data FOLDER")
    return lines


def result_json(outcome: Outcome) -> dict[str, Any]:
    """A finished run as JSON values."""
    from dataclasses import asdict

    from ftkit.runs.model_card import read_card

    calibration = read_card(outcome.run.model).calibration
    return {
        "run": str(outcome.run.path),
        "best": outcome.best,
        "epochs": outcome.records,
        "calibration": None if calibration is None else asdict(calibration),
        "recipes": search_json(outcome),
    }


def _cross_fitting_lines(plan: Plan, outcome: Outcome) -> list[str]:
    """The out-of-fold metrics at each share, and the choice."""
    from ftkit.cli.output.training.progress import metrics_line, shown_labels
    from ftkit.runs.cross_fitting_record import read_cross_fitting

    found = read_cross_fitting(outcome.run)
    assert found is not None, "the run is finished"
    labels = shown_labels(plan)
    labels["loss"] = labels.pop("loss")
    shown = {one.share: {f"val_{name}": value for name, value in one.metrics.items()} for one in found.shares}
    return [
        "out-of-fold metrics by the share of the way from the first to the last weights:",
        *(
            f"  share {share:<5g}{metrics_line(record, labels)}{'  best' if share == found.share else ''}"
            for share, record in shown.items()
        ),
        f"final model: {found.model}" + (f", at share {found.share:g}" if len(shown) > 1 else ""),
        f"out-of-fold: {metrics_line(shown[found.share], labels)}, "
        f"{plural(found.images, 'image')}, each by a model that wasn't trained on it",
    ]


def _lines(plan: Plan, outcome: Outcome, quiet: bool) -> list[str]:
    """Weight drift, the gain over the probe, and the best epoch."""
    from ftkit.cli.output.training.progress import metrics_line, shown_labels
    from ftkit.cli.output.training.weight_drift_bars import weight_drift_lines

    last, labels = outcome.records[-1], shown_labels(plan)
    labels["loss"] = labels.pop("loss")
    best = outcome.best
    skipped = sum(record.get("skipped_steps", 0) for record in outcome.records)
    early = f", stopped early after epoch {last['epoch']}" if outcome.stopped_early else ""
    steps = f"{plural(skipped, 'step was', 'steps were')} skipped: loss or gradients were not finite"
    return [
        *(weight_drift_lines(last["weight_drift"], last["epoch"]) if not quiet and last["epoch"] else ()),
        *_gain(outcome, plan.config.monitor, plan.metrics[plan.config.monitor].label),
        *([steps] if skipped else ()),
        *_averages(plan, outcome),
        f"{_best_weights(best, plan.config.epochs)}{early}: validation {metrics_line(best, labels)}",
    ]


def _gain(outcome: Outcome, monitor: str, label: str) -> list[str]:
    """The change in the monitored metric from the probe to the best epoch."""
    first = outcome.records[0]
    if "probe_strength" not in first or len(outcome.records) < 2:
        return []
    before, after = (record[f"val_{monitor}"] for record in (first, outcome.best))
    monitor = one_line(label)
    if before is None or after is None:
        return [f"probe: {monitor} is not finite, so it can't be compared with the probe"]
    if outcome.best["epoch"] == 0:
        return [f"probe: {monitor} {before:.4f}; fine-tuning did not improve it, so the model is the probe"]
    return [f"probe: {monitor} {before:.4f}; after fine-tuning {after:.4f} ({after - before:+.4f})"]


def _best_weights(best: Mapping[str, Any], epochs: int) -> str:
    """Which weights the model has."""
    from ftkit.runs.run_summary import describe_model

    return f"best model {describe_model(best)}" if "average" in best else f"best epoch {best['epoch']} of {epochs}"


def _averages(plan: Plan, outcome: Outcome) -> list[str]:
    """What the averages of weights gave, beside the epochs."""
    from ftkit.runs.averages import read_averages
    from ftkit.runs.run_summary import best_record, model_record

    averages, monitor = read_averages(outcome.run), plan.config.monitor
    epoch = best_record(outcome.records, None, monitor, plan.metrics[monitor].lower_is_better)
    if not averages or epoch is None:
        return []
    label, kept = one_line(plan.metrics[monitor].label), next((each for each in averages if each.kept), None)
    if kept is None:
        better = f"epoch {epoch['epoch']} ({label} {_value(epoch, monitor)})"
        return [f"averages of weights: none of {len(averages)} is better than {better}"]
    ends = {record["epoch"]: _value(model_record(record), monitor) for record in (outcome.records[0], epoch)}
    ends[outcome.records[-1]["epoch"]] = _value(model_record(outcome.records[-1]), monitor)
    beside = ", ".join(f"epoch {number}: {value}" for number, value in ends.items())
    value = _value(kept.metrics or {}, monitor)
    return [f"averages of weights: kept {kept.describe()}, {label} {value} ({beside})"]


def _value(metrics: Mapping[str, Any], name: str) -> str:
    value = metrics.get(f"val_{name}")
    return "-" if value is None else f"{value:.4f}"
