"""Extrapolation of learning curves."""

from __future__ import annotations

import numpy as np
import pytest

from ftkit.experiments.power_law import CurvePoints, extrapolate, pooled_spread

SIZES = np.array([50, 100, 200, 400, 800])


def points(errors: np.ndarray, spread: float = 0.0, resamples: int = 500) -> CurvePoints:
    return CurvePoints(SIZES, np.tile(errors, (resamples, 1)), spread, np.array([3, 3, 3, 3, 1]))


@pytest.mark.parametrize(("floor", "factor", "exponent"), [(0.0, 2.0, 0.5), (0.05, 3.0, 0.75), (0.1, 0.0, 0.5)])
def test_a_power_law_without_noise_is_continued(floor: float, factor: float, exponent: float) -> None:
    for size, (middle, bounds) in zip(
        (1600, 3200), extrapolate(points(floor + factor * SIZES**-exponent), (1600, 3200)), strict=True
    ):
        expected = floor + factor * size**-exponent
        assert (middle, bounds.low, bounds.high) == pytest.approx((expected,) * 3, abs=1e-6)


def test_noise_widens_the_interval() -> None:
    errors = 2 * SIZES**-0.5
    narrow, wide = (extrapolate(points(errors, spread), (1600,))[0][1] for spread in (0.1, 0.4))
    assert narrow.low is not None
    assert narrow.high is not None
    assert wide.low is not None
    assert wide.high is not None
    assert wide.low < narrow.low < 2 * 1600**-0.5 < narrow.high < wide.high


def test_a_rising_curve_is_not_continued_upward() -> None:
    ((middle, _),) = extrapolate(points(0.1 + SIZES / 1e4), (1600,))
    assert middle == pytest.approx(np.average(0.1 + SIZES / 1e4, weights=SIZES**0.5))


def test_the_spread_is_that_of_one_image() -> None:
    assert pooled_spread(np.array([100, 400]), [[0.1, 0.2], [0.3, 0.35]]) == pytest.approx(
        ((0.005 * 100 + 0.00125 * 400) / 2) ** 0.5
    )
    assert pooled_spread(np.array([100]), [[0.1]]) == 0.0
