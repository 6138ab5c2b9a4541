"""Validation of each run over its epochs."""

from __future__ import annotations

from ftkit.reports.charts.line_chart import Line, line_chart
from ftkit.reports.comparing.comparison_data import ComparisonData
from ftkit.reports.markup import Html, tag
from ftkit.reports.page_parts import hint
from ftkit.reports.section import Omitted
from ftkit.runs.run_summary import model_record


def compared_curves(data: ComparisonData) -> Html | Omitted:
    """A chart for each metric that runs have recorded."""
    charts = []
    for name, metric in data.metrics.items():
        lines = [line for line in (_line(data, place, name) for place in range(len(data.names))) if line is not None]
        if lines:
            charts.append(line_chart(f"validation {metric.label}", lines, ()))
    if not charts:
        return Omitted("no run has two epochs")
    return tag(
        "div", hint("On each run's own validation split. Epoch 0 is the probe."), tag("div", charts, class_="charts")
    )


def _line(data: ComparisonData, place: int, name: str) -> Line | None:
    summary = data.results[place].outputs.trained.summary
    records = [] if summary is None else [model_record(record) for record in summary.records]
    points = [(int(record["epoch"]), record.get(f"val_{name}")) for record in records]
    if sum(value is not None for _, value in points) < 2:
        return None
    return Line(data.names[place], points, data.style(place))
