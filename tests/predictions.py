"""Predictions compared up to rounding, which depends on the other images of a batch."""

from __future__ import annotations

import pytest

from ftkit import Prediction

SMALLEST = 1e-44
"""Numbers below it have few digits left."""


def alike(first: Prediction, *others: Prediction) -> bool:
    """Whether predictions have the same classes in the same order with the same probabilities up to rounding."""
    names = [[name for name, _ in one.top] for one in (first, *others)]
    values = [[value for _, value in one.top] for one in (first, *others)]
    return all(one == names[0] for one in names) and all(
        one == pytest.approx(values[0], rel=1e-3, abs=SMALLEST) for one in values
    )
