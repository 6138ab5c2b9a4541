"""Scales of charts: from values to places, and round values for their ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A linear scale.

    Attributes:
        low, high: Values at the two ends.
        start, stop: Their places.
        ticks: Values to mark.
    """

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Where a value is drawn, rounded to a tenth."""
        part = (value - self.low) / (self.high - self.low)
        return round(self.start + part * (self.stop - self.start), 1)


def value_axis(values: Iterable[float], start: float, stop: float, about: int = 5) -> Axis:
    """An axis with round ends for all finite values, with about so many ticks."""
    there = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(there), max(there)
    if low == high:
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    step = _round_step((high - low) / about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(number * step for number in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], start, stop, ticks)


def epoch_axis(first: int, last: int, start: float, stop: float) -> Axis:
    """An axis of whole epochs, with at most eight ticks."""
    span = max(1, last - first)
    step = max(1, round(_round_step(span / 7)))
    ticks = tuple(float(epoch) for epoch in range(first + (-first) % step, last + 1, step))
    return Axis(first, first + span, start, stop, ticks)


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """The ticks as text, each with as many decimals as tell them apart."""
    step = abs(ticks[1] - ticks[0]) if len(ticks) > 1 else 1.0
    decimals = max(0, min(8, -math.floor(math.log10(step) + 1e-9)))
    return [f"{tick:.{decimals}f}" if abs(tick) < 1e6 else f"{tick:.3g}" for tick in ticks]


def _round_step(step: float) -> float:
    """The step, or the next larger one, of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))
