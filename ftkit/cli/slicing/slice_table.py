"""Slices of an evaluation: as a table, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ftkit.cli.output import console
from ftkit.errors import one_line, plural
from ftkit.metrics.rounding import digits_of

if TYPE_CHECKING:
    from ftkit.evaluation.slicing.slices import Slice, Slices

SHOWN = 12
"""Slices in the table."""


def print_slices(slices: Slices, label: str, names: Sequence[str]) -> None:
    """Print the slices with the worst values of a metric, and what was not tested.

    Args:
        label: The metric's name.
        names: Of the images.
    """
    worse = sum(one.is_worse for one in slices.found)
    text = one_line(label)
    shown = slices.found[: max(SHOWN, worse)]
    if shown:
        columns = ("slice", "images", text, "95 % interval", "rest", "p")
        title = f"The {len(shown)} of {plural(len(slices.found), 'slice')} with the worst {text}"
        console.show_table(title, columns, [_row(one) for one in shown])
    console.print_text(_verdict(slices, text, worse))
    for line in _left_out(slices):
        console.print_text(line)
    for one in shown:
        if one.examples:
            images = ", ".join(one_line(names[place]) for place in one.examples)
            console.print_text(f"{_name(one)}: such as {images}")


def _verdict(slices: Slices, label: str, worse: int) -> str:
    tested = sum(one.p is not None for one in slices.found)
    if not tested:
        return "no slice was tested"
    amount = "none is" if not worse else f"{worse:,} {'is' if worse == 1 else 'are'}"
    return (
        f"{amount} worse in {label} than the rest by more than chance, of {tested:,} that were tested: p is adjusted "
        "for all of them (Benjamini and Hochberg), below 0.05 is marked *"
    )


def _left_out(slices: Slices) -> list[str]:
    lines = [
        f"{one_line(by)}: {plural(count, 'group')} with fewer than {slices.minimum} images, or fewer others, "
        f"{'is' if count == 1 else 'are'} left out"
        for by, count in slices.small.items()
    ]
    return lines + [
        f"{one_line(by)}: all images have one value, or they are too few to be divided"
        for by in slices.undivided
        if by not in slices.small
    ]


def _name(one: Slice) -> str:
    return one_line(f"{one.by} {one.group}")


def _row(one: Slice) -> tuple[str, ...]:
    digits = digits_of(one.images)
    low, high = one.interval.low, one.interval.high
    between = "-" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"
    value, rest = ("-" if each is None else f"{each:.{digits}f}" for each in (one.value, one.rest))
    p = "-" if one.adjusted is None else f"{one.adjusted:.2g}{' *' if one.is_worse else ''}"
    return _name(one), f"{one.images:,}", value, between, rest, p


def slices_json(slices: Slices, names: Sequence[str]) -> Mapping[str, Any]:
    """The slices as JSON values."""
    rows = []
    for one in slices.found:
        row = {**asdict(one), "worse": one.is_worse, "examples": [names[place] for place in one.examples]}
        rows.append({("p_adjusted" if key == "adjusted" else key): value for key, value in row.items()})
    return {
        "metric": slices.metric,
        "minimum": slices.minimum,
        "slices": rows,
        "small": slices.small,
        "undivided": list(slices.undivided),
    }
