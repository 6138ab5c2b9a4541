"""Loss and the monitored metric over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftkit.reports.charts.line_chart import Line, line_chart
from ftkit.reports.markup import Child, Html, count, number, tag
from ftkit.reports.page_parts import folded, hint, table
from ftkit.reports.report_data import ReportData
from ftkit.reports.section import Omitted
from ftkit.runs.run_summary import RunSummary, model_record

Records = Sequence[Mapping[str, Any]]
MOST_ROWS = 1000
"""Epochs that are all in the table; with more, it has as many, evenly spread."""


def curves(data: ReportData) -> Html | Omitted:
    """Charts, and a table with their numbers."""
    summary = data.summary
    histories = _histories(summary)
    if max(map(len, histories), default=0) < 2:
        return Omitted("a curve needs two epochs or more")
    phases = [(phase["epochs"][0] + 1, phase["epochs"][1]) for phase in summary.plan["phases"]]
    best = summary.best["epoch"] if summary.best and not summary.fold_sizes else None
    charts = [
        line_chart(title, lines, phases, best)
        for title, lines in _charts(summary, histories)
        if any(value is not None for line in lines for _, value in line.points)
    ]
    explained = hint(_explanation(summary, len(phases), best))
    return tag("div", explained, tag("div", charts, class_="charts"), _table(summary, histories))


def _histories(summary: RunSummary) -> list[Records]:
    """The records of the run, or of each fold."""
    if summary.fold_sizes:
        return [fold.records() for fold in summary.folds]
    return [summary.records]


def _charts(summary: RunSummary, histories: Sequence[Records]) -> list[tuple[str, list[Line]]]:
    monitor = summary.monitor
    wanted = [("loss", "loss"), (summary.metric_labels[monitor], monitor)]
    if "accuracy" in summary.metric_labels and monitor != "accuracy":
        wanted.append((summary.metric_labels["accuracy"], "accuracy"))
    return [(title, _lines(histories, name)) for title, name in dict(wanted).items()]


def _lines(histories: Sequence[Records], name: str) -> list[Line]:
    """Training, validation, and where callbacks bring weights of their own, those that were selected."""
    found = []
    for number_, records in enumerate(histories):
        # All folds share the items of the legend.
        names = ("training", "validation", "validation of the selected weights") if number_ == 0 else ("", "", "")
        columns = [(f"train_{name}", "s2 dashed", records), (f"val_{name}", "s1", records)]
        if any("selected_weights" in record for record in records):
            columns.append((f"val_{name}", "s3", [model_record(record) for record in records]))
        for title, (key, style, rows) in zip(names, columns, strict=False):
            points = [(int(record["epoch"]), record.get(key)) for record in rows]
            if any(value is not None for _, value in points):
                found.append(Line(title, points, style))
    return found


def _explanation(summary: RunSummary, phases: int, best: int | None) -> str:
    first = "Each line pair is a fold. " if summary.fold_sizes else ""
    start = "Epoch 0 is the probe, before any fine-tuning. " if summary.records[0]["epoch"] == 0 else ""
    banded = "Shaded and plain bands are the phases, in which the same layer groups train. " if phases > 1 else ""
    marked = "" if best is None else f"The dashed vertical line marks the model, epoch {best}. "
    if summary.best and "average" in summary.best:
        marked = f"The model is an average of weights; the dashed line marks the last epoch in it, {best}. "
    augmented = "Training values are means over the augmented images of the epoch."
    return first + start + banded + marked + augmented


def _table(summary: RunSummary, histories: Sequence[Records]) -> Html:
    labels = summary.metric_labels
    names = [name for name in dict.fromkeys(("loss", "accuracy", summary.monitor)) if name in labels]
    several = len(histories) > 1
    heads = [
        "epoch",
        *(["fold"] if several else []),
        "train loss",
        *(f"val {labels[name]}" for name in names),
        "seconds",
    ]
    rows: list[list[Child]] = []
    for fold, records in enumerate(histories, 1):
        for record in _spread(records):
            cells = [record.get("train_loss"), *(record.get(f"val_{name}") for name in names)]
            place = [count(record["epoch"]), *([count(fold)] if several else [])]
            rows.append([*place, *(number(value, 4) for value in cells), f"{record['seconds']:.1f}"])
    return folded("The numbers of all epochs", table(heads, rows, "Numbers by epoch"))


def _spread(records: Records) -> Records:
    if len(records) <= MOST_ROWS:
        return records
    step = len(records) / MOST_ROWS
    return [records[int(place * step)] for place in range(MOST_ROWS)]
