"""Reliability diagram: how often predictions of a confidence are right."""

from __future__ import annotations

import numpy as np

from ftkit.builtin.metrics.calibration_error import BINS, confidence_bins
from ftkit.errors import plural
from ftkit.metrics.multiclass_outputs import MulticlassOutputs
from ftkit.metrics.outputs import Outputs
from ftkit.parts.metric import Array
from ftkit.reports.markup import Child, Html, count, number, tag
from ftkit.reports.page_parts import folded, hint, table
from ftkit.reports.report_data import ReportData
from ftkit.reports.section import Omitted
from ftkit.uncertainty.calibration import CalibrationErrors

SIDE, LEFT, TOP, STRIP = 300, 48, 10, 56
"""Sizes of the diagram, and of the strip of counts below it."""
FEW = 10
"""Images of a bin below which its accuracy says little; such bins are drawn faintly."""


def reliability_diagram(data: ReportData) -> Html | Omitted:
    """Accuracy by confidence, with the calibration error that `ftkit evaluate` computes from the same bins."""
    found = data.evaluated
    if isinstance(found, Omitted):
        return found
    if found.calibration is None:
        return Omitted("the task has no calibration error, or the outputs for some images are not finite")
    _, bins, gaps = confidence_bins(found.outputs)
    counts = np.bincount(bins, minlength=BINS)
    right = np.bincount(bins, _right(found.outputs), BINS)
    confidence = np.bincount(bins, gaps, BINS) + right
    error = float(np.abs(confidence - right).sum() / len(bins))
    mean, accuracy = float(confidence.sum() / len(bins)), float(right.sum() / len(bins))
    single = isinstance(found.outputs, MulticlassOutputs)
    names = ("confidence", "accuracy") if single else ("probability", "frequency")
    values = [
        tag("b", number(error, 4)),
        _bounds(found.calibration),
        f": mean {names[0]} ",
        number(mean, 4),
        f", {names[1]} ",
        number(accuracy, 4),
    ]
    calibrated = _calibration(data, found.calibration)
    text = tag("p", "Calibration error ", values, f". {_verdict(mean - accuracy, single)} ", calibrated)
    labels = (*names, "image" if single else "pair")
    picture = tag("figure", _picture(counts, right, confidence, error, labels), class_="reliability")
    beside = tag("div", picture, tag("div", text, _table(counts, right, confidence, labels)), class_="beside")
    return tag("div", hint(_explanation(found.outputs)), beside)


def _right(outputs: Outputs) -> Array:
    """Whether each confidence belongs to a prediction that is right, or to a class that the image has, bool `(m,)`."""
    return outputs.right if isinstance(outputs, MulticlassOutputs) else outputs.targets.ravel()


def _explanation(outputs: Outputs) -> str:
    grouped = (
        "Predictions are grouped by the probability of the predicted class. A bar is the share of right ones in a group"
        if isinstance(outputs, MulticlassOutputs)
        else "Pairs of an image and a class are grouped by the probability of the class. A bar is the share of pairs "
        "in a group in which the image has the class"
    )
    return f"{grouped}, the orange line the mean probability: they should agree. Faint bars have fewer than {FEW}."


def _bounds(errors: CalibrationErrors) -> list[Child]:
    """The 95 % interval of the error, where it was computed."""
    low, high = errors.error_interval
    return [] if low is None or high is None else [" (95 % interval ", number(low, 4), " to ", number(high, 4), ")"]


def _calibration(data: ReportData, errors: CalibrationErrors) -> list[Child]:
    """What the calibration of the model has changed."""
    used = None if data.card is None else data.card.calibration
    if used is None or errors.uncalibrated_error is None:
        return ["The probabilities are not calibrated."]
    fitted = f"The probabilities are calibrated ({used.describe()}, fitted on {plural(used.images, 'image')}); "
    return [fitted, "without it the error would be ", number(errors.uncalibrated_error, 4), "."]


def _verdict(gap: float, single: bool) -> str:
    if not single:
        return ""
    if abs(gap) < 0.01:
        return "On average, the model is as confident as it is right."
    return "On average, the model is too confident." if gap > 0 else "On average, the model is not confident enough."


def _picture(images: Array, right: Array, confidence: Array, error: float, labels: tuple[str, str, str]) -> Html:
    """The diagram.

    Args:
        labels: Of the axes, and what is counted.
    """
    width, most = SIDE / BINS, max(1, int(images.max()))
    columns = [
        _bin((LEFT + place * width + 1, width - 2), n, hits, total, most, labels)
        for place, (n, hits, total) in enumerate(zip(images.tolist(), right.tolist(), confidence.tolist(), strict=True))
        if n
    ]
    return tag(
        "svg",
        _grid(labels),
        columns,
        tag("path", d=f"M{LEFT} {TOP + SIDE}L{LEFT + SIDE} {TOP}", class_="diagonal"),
        tag("text", f"{labels[2]}s, at most {most:,}", x=LEFT, y=TOP + SIDE + 40, class_="tick"),
        viewBox=f"0 0 {LEFT + SIDE + 14} {TOP + SIDE + STRIP + 38}",
        role="img",
        aria_label=f"Reliability diagram, calibration error {error:.4f}; the table has the numbers",
    )


def _bin(
    place: tuple[float, float], images: int, right: float, confidence: float, most: int, labels: tuple[str, str, str]
) -> list[Html]:
    """A bin: the bar of its accuracy, the line of its mean confidence, and below, the bar of its number of images.

    Args:
        place: Its left edge, and its width.
    """
    (x, width), accuracy, mean = place, right / images, confidence / images
    title = tag("title", f"{plural(images, labels[2])}: {labels[0]} {mean:.3f}, {labels[1]} {accuracy:.3f}")
    height, tall = max(SIDE * accuracy, 1.0), max(1.0, (STRIP - 16) * images / most)
    style = "fill s1" + (" faint" if images < FEW else "")
    left, wide, bottom = round(x, 1), round(width, 1), TOP + SIDE + STRIP + 32
    return [
        tag("rect", title, x=left, y=round(TOP + SIDE - height, 1), width=wide, height=round(height, 1), class_=style),
        tag("path", d=f"M{left} {round(TOP + SIDE * (1 - mean), 1)}h{wide}", class_="expected"),
        tag("rect", x=left, y=round(bottom - tall, 1), width=wide, height=round(tall, 1), class_="fill s3"),
    ]


def _grid(labels: tuple[str, str, str]) -> list[Html]:
    found = []
    for tenth in range(0, 11, 2):
        x, y = LEFT + SIDE * tenth / 10, TOP + SIDE * (1 - tenth / 10)
        found.append(tag("path", d=f"M{LEFT} {y:g}h{SIDE}", class_="grid"))
        found.append(tag("text", f"{tenth / 10:g}", x=LEFT - 8, y=y + 4, class_="tick end"))
        found.append(tag("text", f"{tenth / 10:g}", x=x, y=TOP + SIDE + 18, class_="tick middle"))
    found.append(tag("text", labels[1], x=-(TOP + SIDE / 2), y=13, class_="tick middle turned"))
    found.append(tag("text", labels[0], x=LEFT + SIDE, y=TOP + SIDE + 40, class_="tick end"))
    return found


def _table(images: Array, right: Array, confidence: Array, labels: tuple[str, str, str]) -> Html:
    rows = list[list[Child]]()
    for place, (n, hits, total) in enumerate(zip(images.tolist(), right.tolist(), confidence.tolist(), strict=True)):
        if n:
            rows.append(
                [f"{place / BINS:.2f} to {(place + 1) / BINS:.2f}", count(n), number(total / n, 4), number(hits / n, 4)]
            )
    heads = (f"{labels[0]} from", f"{labels[2]}s", f"mean {labels[0]}", labels[1])
    return folded("The numbers", table(heads, rows, f"{labels[1].capitalize()} by {labels[0]}"))
