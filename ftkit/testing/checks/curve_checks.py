"""The contract of a learning-rate curve: a pure function with finite values up to a peak of 1."""

from __future__ import annotations

import math

from ftkit.api import Curve, RequestError
from ftkit.testing.contract import require, require_frozen_dataclass, require_picklable

RUNS = ((1, 1), (3, 2), (10, 5), (100, 30))
"""Steps per epoch and epochs of the runs that are computed; a curve may refuse some with a `RequestError`."""
TOLERANCE = 1e-9
PEAK = 0.99
"""Smallest maximum in the longest run."""


def check_curve(curve: Curve) -> None:
    """Check a curve instance.

    Raises:
        ContractError: The class isn't a frozen dataclass, or its instance can't be pickled; a factor isn't a finite
            number from 0 to 1, or differs in a second call; the peak isn't 1; or every run is refused.
    """
    require_frozen_dataclass(curve)
    copy = require_picklable(curve)
    peak: float | None = None
    for steps, epochs in RUNS:
        try:
            factors = [curve.factor(step, steps, epochs) for step in range(steps * epochs)]
        except RequestError:
            continue
        for step, factor in enumerate(factors):
            _check_factor(factor, f"step {step} of {steps * epochs}")
        again = [curve.factor(step, steps, epochs) for step in reversed(range(steps * epochs))]
        require(again[::-1] == factors, "its factors differ in a second call", "compute them from the arguments alone")
        others = [copy.factor(step, steps, epochs) for step in range(steps * epochs)]
        require(others == factors, "its factors differ after pickling", "keep its options in the fields")
        peak = max(factors)
    require(peak is not None, "it refuses every run")
    require(peak is None or peak >= PEAK, f"its largest factor is {peak}", "scale it to a peak of 1")


def _check_factor(factor: object, where: str) -> None:
    number = isinstance(factor, int | float) and not isinstance(factor, bool)
    require(number, f"its factor at {where} is {type(factor).__name__}, not a float")
    assert isinstance(factor, int | float), "as required"
    valid = math.isfinite(factor) and -TOLERANCE <= factor <= 1 + TOLERANCE
    require(valid, f"its factor at {where} is {factor}, not from 0 to 1")
