"""The result of `ftkit compare` for existing runs, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftkit.cli.output import console
from ftkit.errors import one_line, plural
from ftkit.transforms.view_choices import Tta

if TYPE_CHECKING:
    from ftkit.evaluation.comparison import Estimate, Result
    from ftkit.parts.metric import Metric


def print_comparison(results: Sequence[Result], metrics: Mapping[str, Metric], split: str, tta: Tta) -> None:
    """Print two tables: the metrics of each run, and their differences from the baseline."""
    from ftkit.evaluation.comparison import run_names, verdict
    from ftkit.metrics.bootstrap import RESAMPLES

    names, labels = run_names(results), [one_line(metric.label) for metric in metrics.values()]
    images = len(results[0].outputs.names)
    same_images = all(len(r.outputs.names) == images for r in results)
    title = f"{split}: {plural(images, 'image')}" if same_images else split
    title += "" if tta == "none" else f", test-time augmentation {tta}"
    title += f"; in brackets: 95 % bootstrap intervals, {RESAMPLES:,} resamples"
    columns = ("run", *labels, "best epoch", "seconds", "trainable")
    rows = [
        (name, *(_estimate(result.metrics[metric]) for metric in metrics), *_cost(result))
        for name, result in zip(names, results, strict=True)
    ]
    console.show_table(title, columns, rows)
    rest = [(name, r.against) for name, r in zip(names, results, strict=True) if r.against is not None]
    if not rest:
        return
    heads = ("only it correct", f"only {names[0]} correct", "p", *labels)
    rows = [
        (
            name,
            str(a.only_this),
            str(a.only_first),
            f"{a.p:.3g}",
            *(_estimate(a.differences[metric], "+.4f") for metric in metrics),
        )
        for name, a in rest
    ]
    console.show_table(f"paired differences from {names[0]}", ("run", *heads), rows)
    accuracy = results[0].outputs.task.accuracy
    console.print_text(f"p: McNemar's exact test; the null hypothesis is equal {accuracy}")
    for name, against in rest:
        console.print_text(verdict(name, names[0], against, images, accuracy))


def _estimate(value: Estimate, form: str = ".4f") -> str:
    point, interval = value
    if point is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{point:{form}}"
    return f"{point:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def _cost(result: Result) -> tuple[str, str, str]:
    from ftkit.cli.output.descriptions import full_count

    trained = result.outputs.trained
    summary = trained.summary
    if summary is None:
        return "-", "-", "-"
    best = summary.best["epoch"] if summary.best else "-"
    average = ", averaged" if summary.best and "average" in summary.best else ""
    seconds = f"{trained.seconds or 0:.1f}"
    return f"{best} of {summary.epochs}{average}", seconds, full_count(trained.trainable)


def comparison_json(result: Result) -> dict[str, Any]:
    one, against = result.outputs, result.against
    summary = one.trained.summary
    facts = {
        "run": str(one.trained.path),
        "images": len(one.names),
        "precision": one.precision,
        "metrics": {name: _plain(value) for name, value in result.metrics.items()},
        "best_epoch": summary.best["epoch"] if summary and summary.best else None,
        "average": summary.best.get("average") if summary and summary.best else None,
        "epochs": summary.epochs if summary else None,
        "seconds": None if one.trained.seconds is None else round(one.trained.seconds, 3),
        "trainable": one.trained.trainable,
        "against_baseline": None,
    }
    if against is not None:
        differences = {name: _plain(value) for name, value in against.differences.items()}
        facts["against_baseline"] = {
            "differences": differences,
            "only_baseline_correct": against.only_first,
            "only_this_correct": against.only_this,
            "p": against.p,
            "significant": not against.is_chance,
            "smallest_significant_difference": against.smallest_difference / len(one.names),
        }
    return facts


def _plain(value: Estimate) -> dict[str, float | None]:
    return {"value": value[0], "low": value[1].low, "high": value[1].high}
