"""A single curve of one quantity over another."""

from __future__ import annotations

from collections.abc import Sequence

from ftkit.reports.charts.axes import Axis, tick_labels, value_axis
from ftkit.reports.markup import Html, tag

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 40


def curve_chart(across: tuple[str, Sequence[float]], up: tuple[str, Sequence[float]], label: str) -> Html:
    """A figure of a curve; both scales begin at 0.

    Args:
        across, up: What the values are, and one value for each point.
        label: What the chart is, for screen readers.
    """
    x = value_axis((0.0, *across[1]), LEFT, WIDTH - RIGHT)
    y = value_axis((0.0, *up[1]), HEIGHT - BOTTOM, TOP)
    places = (f"{x.place(one)} {y.place(other)}" for one, other in zip(across[1], up[1], strict=True))
    svg = tag(
        "svg",
        _grid(x, y),
        tag("path", d=f"M{'L'.join(places)}", class_="line s1"),
        tag("text", across[0], x=WIDTH - RIGHT, y=HEIGHT - 4, class_="tick end"),
        tag("text", up[0], x=-(TOP + HEIGHT - BOTTOM) / 2, y=13, class_="tick middle turned"),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=label,
    )
    return tag("figure", svg, class_="chart")


def _grid(x: Axis, y: Axis) -> list[Html]:
    found = []
    for value, label in zip(y.ticks, tick_labels(y.ticks), strict=True):
        found.append(tag("path", d=f"M{LEFT} {y.place(value)}H{WIDTH - RIGHT}", class_="grid"))
        found.append(tag("text", label, x=LEFT - 8, y=y.place(value) + 4, class_="tick end"))
    for value, label in zip(x.ticks, tick_labels(x.ticks), strict=True):
        found.append(tag("text", label, x=x.place(value), y=HEIGHT - BOTTOM + 18, class_="tick middle"))
    return found
