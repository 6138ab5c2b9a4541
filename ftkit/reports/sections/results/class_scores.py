"""Precision, recall and F1 of each class."""

from __future__ import annotations

from ftkit.metrics.report import ClassScores, Evaluation
from ftkit.metrics.rounding import digits_of
from ftkit.reports.charts.bars import bar
from ftkit.reports.markup import Child, Html, count, number, tag
from ftkit.reports.page_parts import hint, table
from ftkit.reports.report_data import ReportData
from ftkit.reports.section import Omitted

MOST_CLASSES = 500
"""Classes that are all in the table; with more, those with the lowest F1 are."""


def class_scores(data: ReportData) -> Html | Omitted:
    """A table that can be sorted by each of its columns."""
    found = data.evaluated
    if isinstance(found, Omitted):
        return found
    evaluation, digits = found.evaluation, digits_of(found.evaluation.images)
    shown, explained = _shown(evaluation)
    further = _further(evaluation)
    rows = [
        _row(evaluation.per_class[place], digits, [number(column[place], digits) for column in further.values()])
        for place in shown
    ]
    heads = ("class", "images", "precision", "recall", "F1", *further)
    return tag("div", hint(explained), table(heads, rows, "Metrics by class", "sortable scores"))


def _shown(evaluation: Evaluation) -> tuple[list[int], str]:
    """Positions of the classes to show, and what they are."""
    scores = evaluation.per_class
    if len(scores) <= MOST_CLASSES:
        return list(range(len(scores))), "Each class against all others. Choose a heading to sort."
    there = [place for place in range(len(scores)) if scores[place].support]
    worst = sorted(there, key=lambda place: scores[place].f1)[:MOST_CLASSES]
    return worst, (
        f"The {len(worst)} classes with the lowest F1, of {len(scores):,}; ftkit evaluate --json has all. "
        "Choose a heading to sort."
    )


def _further(evaluation: Evaluation) -> dict[str, list[float]]:
    """Columns for images with several labels."""
    if evaluation.average_precision is None or evaluation.thresholds is None:
        return {}
    return {"AP": evaluation.average_precision.tolist(), "threshold": list(evaluation.thresholds)}


def _row(one: ClassScores, digits: int, further: list[Html]) -> list[Child]:
    rates = [
        tag("div", number(value, digits), bar(value), class_="rate") for value in (one.precision, one.recall, one.f1)
    ]
    return [one.name, count(one.support), *rates, *further]
