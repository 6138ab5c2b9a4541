"""A line chart over epochs, with the phases of the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ftkit.reports.charts.axes import Axis, epoch_axis, tick_labels, value_axis
from ftkit.reports.markup import Html, tag

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 26, 38
MOST_MARKS = 40
"""Points of a line that are marked; with more, the line is drawn alone."""
MOST_PHASES = 12
"""Phases that are numbered; with more, only their bounds are drawn."""


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: For the legend.
        points: Epoch and value; the line is interrupted where there is no value.
        style: A CSS class with its colour and dashes: `s1` to `s6`.
    """

    name: str
    points: Sequence[tuple[int, float | None]]
    style: str


def line_chart(title: str, lines: Sequence[Line], phases: Sequence[tuple[int, int]], best: int | None = None) -> Html:
    """A figure with a legend.

    Args:
        title: What the values are.
        lines: Lines with a value each, at least.
        phases: First and last epoch of each phase, from 1.
        best: The epoch of the model, which is marked.
    """
    epochs = [epoch for line in lines for epoch, _ in line.points]
    values = [value for line in lines for _, value in line.points if value is not None]
    across = epoch_axis(min(epochs), max(epochs), LEFT, WIDTH - RIGHT)
    up = value_axis(values, HEIGHT - BOTTOM, TOP)
    drawn = [part for line in lines for part in _line(line, across, up)]
    marked = [] if best is None else _best(best, across)
    svg = tag(
        "svg",
        *_phases(phases, across),
        *_grid(across, up),
        *marked,
        *drawn,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=_description(title, lines),
    )
    legend = [_legend_item(line.name, line.style) for line in lines if line.name]
    return tag(
        "figure",
        tag("figcaption", tag("span", title, class_="chart-title"), tag("ul", legend, class_="legend")),
        svg,
        class_="chart",
    )


def legend_swatch(style: str) -> Html:
    """A short line as in the chart, for a legend."""
    line = tag("path", d="M1 6H23", class_=f"line {style}")
    return tag("svg", line, viewBox="0 0 24 12", class_="swatch", aria_hidden="true")


def _legend_item(name: str, style: str) -> Html:
    return tag("li", legend_swatch(style), name)


def _description(title: str, lines: Sequence[Line]) -> str:
    ends = []
    for line in lines:
        there = [(epoch, value) for epoch, value in line.points if value is not None]
        if there and line.name:
            ends.append(f"{line.name} {there[0][1]:.4g} at epoch {there[0][0]}, {there[-1][1]:.4g} at {there[-1][0]}")
    return f"{title} by epoch: {'; '.join(ends)}"


def _phases(phases: Sequence[tuple[int, int]], across: Axis) -> list[Html]:
    """Every other phase is shaded; an epoch's value is at its end, so a phase begins at the end of the one before."""
    found = []
    for number, (first, last) in enumerate(phases, 1):
        left = max(across.place(first - 1), across.start)
        right = min(across.place(last), across.stop)
        if right <= left:
            continue
        shade = "phase" if number % 2 else "phase odd"
        found.append(tag("rect", x=left, y=TOP, width=right - left, height=HEIGHT - TOP - BOTTOM, class_=shade))
        if 1 < len(phases) <= MOST_PHASES:
            middle = round((left + right) / 2, 1)
            found.append(tag("text", str(number), x=middle, y=TOP - 8, class_="phase-name"))
    return found


def _grid(across: Axis, up: Axis) -> list[Html]:
    bottom = HEIGHT - BOTTOM
    found = []
    for value, label in zip(up.ticks, tick_labels(up.ticks), strict=True):
        y = up.place(value)
        found.append(tag("path", d=f"M{LEFT} {y}H{WIDTH - RIGHT}", class_="grid"))
        found.append(tag("text", label, x=LEFT - 8, y=y + 4, class_="tick end"))
    for value in across.ticks:
        found.append(tag("text", f"{value:.0f}", x=across.place(value), y=bottom + 18, class_="tick middle"))
    found.append(tag("text", "epoch", x=WIDTH - RIGHT, y=HEIGHT - 4, class_="tick end"))
    return found


def _best(best: int, across: Axis) -> list[Html]:
    x = across.place(best)
    return [
        tag("path", d=f"M{x} {TOP}V{HEIGHT - BOTTOM}", class_="best"),
        tag("path", d=f"M{x - 5} {TOP - 1}h10l-5 7z", class_="best-mark"),
    ]


def _line(line: Line, across: Axis, up: Axis) -> list[Html]:
    there = [(across.place(epoch), None if value is None else up.place(value)) for epoch, value in line.points]
    path, before = "", False
    for x, y in there:
        if y is not None:
            path += f"{'L' if before else 'M'}{x} {y}"
        before = y is not None
    found = [tag("path", d=path, class_=f"line {line.style}")] if path else []
    alone = {i for i, (_, y) in enumerate(there) if y is not None}
    if len(there) > MOST_MARKS:
        alone -= {i for pair in pairwise(sorted(alone)) if pair[1] - pair[0] == 1 for i in pair}
    marks = [(there[i], line.points[i]) for i in sorted(alone)]
    for (x, y), (epoch, value) in marks:
        title = tag("title", f"{line.name or 'fold'}, epoch {epoch}: {value:.4g}")
        found.append(tag("circle", title, cx=x, cy=y, r=2.6, class_=f"mark {line.style}"))
    return found
