"""Bars and intervals in the cells of tables."""

from __future__ import annotations

from ftkit.reports.markup import Html, tag


def bar(part: float, style: str = "s1") -> Html:
    """A horizontal bar of a part, 0 to 1, of the width of its cell; its number must be beside it."""
    width = max(0.0, min(1.0, part)) * 100
    return tag(
        "svg",
        tag("rect", x=0, y=0, width=100, height=8, class_="bar-ground"),
        tag("rect", x=0, y=0, width=round(max(width, 0.8 if part > 0 else 0), 2), height=8, class_=f"fill {style}"),
        viewBox="0 0 100 8",
        preserveAspectRatio="none",
        class_="bar",
        aria_hidden="true",
    )


def interval_bar(value: float, low: float, high: float, ends: tuple[float, float], style: str = "s1") -> Html:
    """A point with its interval, on a scale that is given by its two ends."""
    span = (ends[1] - ends[0]) or 1.0
    left, middle, right = (round(100 * min(1.0, max(0.0, (v - ends[0]) / span)), 2) for v in (low, value, high))
    return tag(
        "svg",
        tag("rect", x=0, y=5, width=100, height=2, class_="bar-ground"),
        tag("rect", x=left, y=3, width=round(max(right - left, 0.5), 2), height=6, class_=f"fill faint {style}"),
        tag("rect", x=round(max(middle - 0.5, 0), 2), y=0, width=1, height=12, class_=f"fill {style}"),
        viewBox="0 0 100 12",
        preserveAspectRatio="none",
        class_="interval",
        aria_hidden="true",
    )
