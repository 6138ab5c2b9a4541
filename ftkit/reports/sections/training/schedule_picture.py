"""The schedule: which layer groups train in which epochs, and at what learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ftkit.reports.charts.axes import epoch_axis
from ftkit.reports.markup import Child, Html, count, tag
from ftkit.reports.page_parts import folded, hint, scrolling, table
from ftkit.reports.report_data import ReportData
from ftkit.reports.section import Omitted

WIDTH, LEFT, RIGHT, TOP, ROW = 720, 150, 8, 10, 22
MOST_COLUMNS = 120
"""Columns of the picture; in a longer run each stands for several epochs and shows the first one."""
LEVELS = 8
"""Steps of colour between the lowest and the highest learning rate."""
LONGEST = 20
"""Characters of a group's name in the picture."""


def schedule_picture(data: ReportData) -> Html | Omitted:
    """A row for each layer group, a column for each epoch."""
    plan = data.summary.plan
    epochs, groups = plan["epochs"], plan["groups"]
    if not epochs:
        return Omitted("the run trains no epoch")
    rates = [rate for epoch in epochs for rate in epoch["lr"].values() if rate]
    low, high = (min(rates), max(rates)) if rates else (1.0, 1.0)
    names = [group["name"] for group in groups]
    picture = tag(
        "svg",
        *_rows(names, epochs, low, high),
        *_epochs(len(epochs), len(names)),
        viewBox=f"0 0 {WIDTH} {TOP + ROW * len(names) + 34}",
        role="img",
        aria_label=f"Learning rates of {len(names)} layer groups in {len(epochs)} epochs; the table has the numbers",
    )
    explained = hint(
        "Each row is a layer group, from the input at the top to the head. Coloured cells train, in a stronger colour "
        "for a higher learning rate at the start of the epoch. Grey cells are frozen."
    )
    figure = tag("figure", picture, _legend(low, high), class_="schedule")
    return tag("div", explained, scrolling(figure, "Schedule"), _table(plan))


def _rows(names: Sequence[str], epochs: Sequence[Mapping[str, Any]], low: float, high: float) -> list[Html]:
    """Neighbouring epochs in which a group has rates of the same level are one rectangle."""
    step = max(1, math.ceil(len(epochs) / MOST_COLUMNS))
    columns = range(0, len(epochs), step)
    width, found = (WIDTH - LEFT - RIGHT) / len(epochs), []
    for row, name in enumerate(names):
        y, short = TOP + ROW * row, name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
        found.append(tag("text", tag("title", name), short, x=LEFT - 10, y=y + 15, class_="tick end"))
        for first in columns:
            last = min(first + step, len(epochs))
            rate = epochs[first]["lr"].get(name) or 0.0
            level = f"lr l{_level(rate, low, high)}" if rate else "lr frozen"
            what = f"learning rate {rate:.2g}" if rate else "frozen"
            span = f"epoch {first + 1}" if last == first + 1 else f"epochs {first + 1} to {last}"
            gap = 1 if len(columns) <= 60 else 0
            found.append(
                tag(
                    "rect",
                    tag("title", f"{name}, {span}: {what}"),
                    x=round(LEFT + first * width, 2),
                    y=y,
                    width=round((last - first) * width - gap, 2),
                    height=ROW - 3,
                    class_=level,
                )
            )
    return found


def _level(rate: float, low: float, high: float) -> int:
    """1 for the lowest rate, `LEVELS` for the highest, on a logarithmic scale."""
    if high <= low:
        return LEVELS
    return 1 + round((LEVELS - 1) * math.log(rate / low) / math.log(high / low))


def _epochs(epochs: int, groups: int) -> list[Html]:
    axis, y = epoch_axis(1, epochs, LEFT, WIDTH - RIGHT), TOP + ROW * groups + 14
    width = (WIDTH - LEFT - RIGHT) / epochs
    places = [(int(tick), LEFT + (tick - 0.5) * width) for tick in axis.ticks or (1.0,)]
    ticks = [tag("text", str(tick), x=round(x, 1), y=y, class_="tick middle") for tick, x in places]
    return [*ticks, tag("text", "epoch", x=WIDTH - RIGHT, y=y + 16, class_="tick end")]


def _legend(low: float, high: float) -> Html:
    cells = [
        tag("rect", x=(level - 1) * 22, y=0, width=20, height=14, class_=f"lr l{level}")
        for level in range(1, LEVELS + 1)
    ]
    scale = tag("svg", cells, viewBox=f"0 0 {LEVELS * 22} 14", class_="scale", aria_hidden="true")
    frozen = tag(
        "svg",
        tag("rect", x=0.5, y=0.5, width=19, height=13, class_="lr frozen"),
        viewBox="0 0 20 14",
        class_="scale one",
        aria_hidden="true",
    )
    return tag(
        "figcaption", tag("span", frozen, "frozen"), tag("span", f"{low:.2g} ", scale, f" {high:.2g}"), class_="key"
    )


def _table(plan: Mapping[str, Any]) -> Html:
    """Trainable groups and rates at the start of each phase."""
    heads = ("phase", "epochs", "trainable parameters", "learning rate by layer group at its start")
    rows = list[list[Child]]()
    for number, phase in enumerate(plan["phases"], 1):
        first, stop = phase["epochs"]
        rates = ", ".join(f"{name} {rate:.2g}" for name, rate in reversed(plan["epochs"][first]["lr"].items()) if rate)
        trainable = phase["trainable"]
        span = f"{first + 1}" if stop == first + 1 else f"{first + 1} to {stop}"
        rows.append([count(number), span, "?" if trainable is None else count(trainable), rates])
    return folded("The phases as a table", table(heads, rows, "Phases", "words"))
