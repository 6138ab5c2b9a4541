"""Counts, aligned rows and schedules as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftkit.strategies.schedule import Schedule

COLUMNS = 8
"""Epochs, or ranges of epochs with equal rates, that a schedule table shows side by side."""


def full_count(number: int | None) -> str:
    """A number with all digits, `11,177,538`; `?` if unknown."""
    return "?" if number is None else f"{number:,}"


def short_count(number: int | None) -> str:
    """A number in three digits, `11.2M`; `?` if unknown."""
    if number is None:
        return "?"
    value = float(number)
    for unit in ("", "K", "M"):
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}G"


def schedule_tables(schedule: Schedule) -> Iterable[list[list[str]]]:
    """Tables of layer groups by epochs, counted from 1. Equal neighbouring epochs share a column."""
    runs = [list(members) for _, members in groupby(range(len(schedule.rows)), key=schedule.rows.__getitem__)]
    for start in range(0, len(runs), COLUMNS):
        spans = [(epochs[0], epochs[-1]) for epochs in runs[start : start + COLUMNS]]
        table = [["epochs", *(f"{a + 1}" if a == b else f"{a + 1}-{b + 1}" for a, b in spans)]]
        for group in schedule.groups:
            scales = [schedule.rows[first].get(group.name) for first, _ in spans]
            table.append([group.name, *("frozen" if scale is None else f"{scale:.3g}" for scale in scales)])
        yield table


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns, two spaces apart. Nothing is truncated, so lines can be searched."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def time_text(seconds: float) -> str:
    """A time in the largest units that fit: `45 s`, `10 min`, `1 h 30 min`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return " ".join([*([f"{hours} h"] if hours else []), *([f"{rest} min"] if rest or not hours else [])])
