"""The error rate of the most confident predictions: what it would cost to reject the others."""

from __future__ import annotations

from ftkit.metrics.multiclass_outputs import MulticlassOutputs
from ftkit.reports.charts.curve_chart import curve_chart
from ftkit.reports.markup import Child, Html, number, tag
from ftkit.reports.page_parts import hint, table
from ftkit.reports.report_data import ReportData
from ftkit.reports.section import Omitted
from ftkit.uncertainty.rejection import risk_coverage

SHOWN = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
"""Parts of the images in the table."""


def risk_curve(data: ReportData) -> Html | Omitted:
    """The error rate of the most confident predictions, by their share of the images."""
    found = data.evaluated
    if isinstance(found, Omitted):
        return found
    outputs = found.outputs
    if not isinstance(outputs, MulticlassOutputs):
        return Omitted("an image may have several labels, and predictions are rejected as a whole")
    if not outputs.finite.all():
        return Omitted("the outputs for some images are not finite")
    curve = risk_coverage(outputs.confidence, outputs.right)
    points = dict.fromkeys(curve.at(coverage) for coverage in SHOWN)
    rows: list[list[Child]] = [
        [number(one.coverage, 3), number(one.threshold, 4), number(one.risk, 4)] for one in points
    ]
    explained = (
        "If predictions below a probability are rejected, fewer images have a prediction, and fewer predictions are "
        "wrong. The area below the curve is ",
        number(curve.area, 4),
        ". ftkit predict --min-confidence and --reject-risk reject.",
    )
    chart = curve_chart(
        ("share of the images with a prediction", [one.coverage for one in curve.points]),
        ("error rate", [one.risk for one in curve.points]),
        f"Error rate by the share of the images with a prediction, with an area of {curve.area:.4f}",
    )
    numbers = table(("coverage", "lowest probability", "error rate"), rows, "Error rate by coverage")
    return tag("div", hint(*explained), tag("div", chart, numbers, class_="beside"))
