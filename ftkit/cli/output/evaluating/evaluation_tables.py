"""The result of `ftkit evaluate` in a terminal: metrics with intervals, metrics by class, the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ftkit.cli.output import console
from ftkit.cli.output.console import COLUMN_PADDING
from ftkit.errors import one_line, plural
from ftkit.metrics.rounding import digits_of
from ftkit.transforms.view_choices import Tta

if TYPE_CHECKING:
    from rich.table import Table

    from ftkit.evaluation.evaluation_data import EvaluationData
    from ftkit.metrics.bootstrap import Interval
    from ftkit.metrics.report import Evaluation
    from ftkit.parts.metric import Metric

LARGEST_MATRIX = 20
"""Largest number of classes whose confusion matrix is shown; above, the most confused pairs are shown."""
PAIRS = 15
CLASSES = 100
"""Largest number of classes that are all listed; above, those with the lowest F1 are listed."""
WORST = 20


def print_evaluation(
    evaluation: Evaluation,
    images: EvaluationData,
    intervals: Mapping[str, Interval],
    metrics: Mapping[str, Metric],
    tta: Tta = "none",
) -> None:
    """Print the metrics with confidence intervals, the metrics by class, and the confusion matrix."""
    out = console.out()
    digits = digits_of(evaluation.images)
    labels = {name: one_line(metric.label) for name, metric in metrics.items()}
    shown = [
        f"{labels[name]} {value:.{digits}f}{_interval_text(intervals.get(name), digits)}"
        for name, value in evaluation.values.items()
        if value is not None
    ]
    count = plural(evaluation.images, "image") + ("" if tta == "none" else f", test-time augmentation {tta}")
    out.print(f"{images.title}: {', '.join(shown)}, {count}", soft_wrap=True)
    out.print("in brackets: 95 % confidence intervals", soft_wrap=True)
    for name, reason in evaluation.missing.items():
        out.print(f"no {labels[name]}: {one_line(reason)}", soft_wrap=True)
    out.print(_class_table(evaluation))
    if evaluation.has_confusion:
        out.print(_confusion_table(evaluation, out.width) or _pairs_table(evaluation))


def _interval_text(interval: Interval | None, digits: int) -> str:
    if interval is None or interval.low is None or interval.high is None:
        return ""
    return f" [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _class_table(evaluation: Evaluation) -> Table:
    scores, title = evaluation.per_class, "By class"
    shown: Sequence[int] = range(len(scores))
    if len(shown) > CLASSES:
        # A class without images has an F1 of 0, whatever the model.
        shown = sorted((place for place in shown if scores[place].support), key=lambda place: scores[place].f1)[:WORST]
        title = f"The {len(shown)} of {len(scores):,} classes with the lowest F1: all are in --json"
    further: dict[str, Sequence[float]] = {}
    if evaluation.average_precision is not None and evaluation.thresholds is not None:
        further = {"AP": evaluation.average_precision.tolist(), "threshold": evaluation.thresholds}
    table = console.table(title, ("class", "images", "precision", "recall", "F1", *further))
    digits = digits_of(evaluation.images)
    for place in shown:
        one = scores[place]
        values = (one.precision, one.recall, one.f1, *(column[place] for column in further.values()))
        cells = ("-" if math.isnan(value) else f"{value:.{digits}f}" for value in values)
        table.add_row(one_line(one.name), str(one.support), *cells)
    return table


def _confusion_table(evaluation: Evaluation, width: int) -> Table | None:
    """The confusion matrix, with numbers as column heads if names don't fit; None if it doesn't fit at all."""
    if len(evaluation.classes) > LARGEST_MATRIX:
        return None
    names = [one_line(name) for name in evaluation.classes]
    numbered = [f"{i} {name}" for i, name in enumerate(names)]
    digits = len(str(evaluation.pairs[:, 2].max(initial=0)))
    for rows, columns in ((names, names), (numbered, [str(i) for i in range(len(names))])):
        needed = (
            max(map(len, rows)) + sum(max(len(column), digits) + COLUMN_PADDING for column in columns) + COLUMN_PADDING
        )
        if needed <= width:
            table = console.table("Confusion: rows are the true classes, columns the predicted ones", ("", *columns))
            for name, row in zip(rows, evaluation.confusion, strict=True):
                table.add_row(name, *(str(n) if n else "." for n in row))
            return table
    return None


def _pairs_table(evaluation: Evaluation) -> Table:
    names = evaluation.classes
    table = console.table("Most confused: the whole matrix is in --json", ("true class", "predicted", "images"))
    errors = [(n, i, j) for i, j, n in evaluation.pairs.tolist() if i != j]
    for n, i, j in sorted(errors, key=lambda error: (-error[0], error[1:]))[:PAIRS]:
        table.add_row(one_line(names[i]), one_line(names[j]), str(n))
    return table
