"""The loss over rising learning rates, and the rates that the curve suggests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

MOMENTUM = 0.9
"""Of the moving average that smooths the losses, which is corrected for its start at 0."""
DIVERGED = 4.0
"""The test ends where the smoothed loss is so many times its lowest value, as in fastai."""
FEWEST = 10
"""Points below which a curve suggests nothing."""


@dataclass(frozen=True)
class RateCurve:
    """A learning-rate range test (Smith 2015).

    Attributes:
        rates: Base learning rates of the steps, rising.
        losses: The mean loss of each step's images, before its update.
        diverged: Whether the test ended early, since the next loss was much higher or not finite.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    diverged: bool

    @property
    def smoothed(self) -> tuple[float, ...]:
        """Exponential moving averages of the losses."""
        return smoothed(self.losses)

    def suggestions(self) -> dict[str, float]:
        """Suggested base rates by the name of the rule; empty where the loss never falls.

        valley: As in fastai, the middle of the steps that end where the longest falling subsequence of the smoothed
            losses does, and are as many.
        steepest: Where the smoothed loss falls fastest by the logarithm of the rate.
        minimum: A tenth of the rate with the lowest smoothed loss.
        """
        losses = self.smoothed
        valley = _longest_fall(losses)
        if len(losses) < FEWEST or len(valley) < 2:
            return {}
        slopes = [after - before for before, after in pairwise(losses)]
        first = len(slopes) // 10  # The average of the first few losses still depends on which images they are of.
        found = {
            "valley": self.rates[valley[-1] - len(valley) // 2],
            "steepest": self.rates[slopes.index(min(slopes[first:]), first)],
            "minimum": self.rates[losses.index(min(losses))] / 10,
        }
        return {name: float(f"{rate:.2g}") for name, rate in found.items()}


def smoothed(losses: Sequence[float]) -> tuple[float, ...]:
    """Exponential moving averages; each weights all losses so far."""
    average, found = 0.0, list[float]()
    for count, loss in enumerate(losses, 1):
        average = MOMENTUM * average + (1 - MOMENTUM) * loss
        # To nine digits, so that equal losses don't fall by rounding.
        found.append(float(f"{average / (1 - MOMENTUM**count):.9g}"))
    return tuple(found)


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether a test should end after these losses."""
    averages = smoothed(losses)
    return len(losses) >= FEWEST and averages[-1] > DIVERGED * min(averages)


def rising_rates(lowest: float, highest: float, steps: int) -> tuple[float, ...]:
    """So many rates from the lowest to the highest, each the same multiple of the one before."""
    return tuple(lowest * (highest / lowest) ** (step / (steps - 1)) for step in range(steps))


def _longest_fall(values: Sequence[float]) -> list[int]:
    """Places of a longest strictly falling subsequence; of several, the one that ends first."""
    length, before = [1] * len(values), [-1] * len(values)
    for place, value in enumerate(values):
        for earlier in range(place):
            if values[earlier] > value and length[earlier] + 1 > length[place]:
                length[place], before[place] = length[earlier] + 1, earlier
    place = length.index(max(length, default=0)) if length else -1
    found: list[int] = []
    while place >= 0:
        found.append(place)
        place = before[place]
    return found[::-1]
