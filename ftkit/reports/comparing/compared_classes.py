"""F1 of each class for each run."""

from __future__ import annotations

import numpy as np

from ftkit.metrics.rounding import digits_of
from ftkit.reports.charts.bars import bar
from ftkit.reports.comparing.comparison_data import ComparisonData
from ftkit.reports.markup import Child, Html, count, number, tag
from ftkit.reports.page_parts import hint, table

MOST_CLASSES = 200
"""Classes that are all in the table; with more, those in which the runs differ most."""


def compared_classes(data: ComparisonData) -> Html:
    """A table that can be sorted by each run."""
    outputs = [result.outputs.outputs for result in data.results]
    scores, support = np.stack([one.f1 for one in outputs]), outputs[0].support
    order, explained = np.arange(len(support)), "Choose a heading to sort."
    if len(order) > MOST_CLASSES:
        spread = np.where(support > 0, scores.max(axis=0) - scores.min(axis=0), -1)
        order = np.argsort(-spread, kind="stable")[:MOST_CLASSES]
        explained = f"The {MOST_CLASSES} of {len(support):,} classes in which the runs differ most. {explained}"
    digits = digits_of(len(outputs[0]))
    rows: list[list[Child]] = [
        [
            outputs[0].classes[place],
            count(int(support[place])),
            *(_rate(float(values[place]), digits, data.style(run)) for run, values in enumerate(scores)),
        ]
        for place in order.tolist()
    ]
    return tag("div", hint(explained), table(("class", "images", *data.names), rows, "F1 by class", "sortable"))


def _rate(value: float, digits: int, style: str) -> Html:
    return tag("div", number(value, digits), bar(value, style), class_="rate")
