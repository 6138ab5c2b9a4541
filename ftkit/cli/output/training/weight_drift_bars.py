"""Weight drift by layer group, as bars of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ftkit.cli.output import console
from ftkit.errors import one_line

LENGTH = 32
"""Characters of the longest bar."""
EIGHTHS = " ▏▎▍▌▋▊▉"


def weight_drift_lines(drift: Mapping[str, float | None], epoch: int) -> Iterator[str]:
    """A heading, and a bar for each layer group from the input to the head.

    Args:
        drift: Norm of the change from the initial weights over their norm; None where that norm is 0.
    """
    longest = max((value for value in drift.values() if value), default=0.0)
    width = max(map(len, map(one_line, drift)), default=0)
    if drift:
        yield f"weight drift after epoch {epoch}, relative to the initial weights:"
    for group, value in drift.items():
        text = "from 0" if value is None else f"{100 * value:.3g} %"
        yield f"  {one_line(group):<{width}}  {text:>10}  {_bar((value or 0) / (longest or 1))}".rstrip()


def _bar(part: float) -> str:
    """A bar for a part of the longest one; any drift above 0 has a mark."""
    if not _can_draw():
        return "#" * (max(1, round(part * LENGTH)) if part else 0)
    eighths = max(1, round(part * LENGTH * 8)) if part else 0
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def _can_draw() -> bool:
    try:
        f"█{EIGHTHS}".encode(console.out().encoding)
    except UnicodeEncodeError:
        return False
    return True
