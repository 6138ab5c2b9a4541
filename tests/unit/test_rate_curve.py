"""Suggestions from curves of known shapes."""

from __future__ import annotations

import math

import pytest

from ftkit.experiments.rate_curve import RateCurve, has_diverged, rising_rates, smoothed


def curve(losses: list[float]) -> RateCurve:
    return RateCurve(rising_rates(1e-6, 1.0, len(losses)), tuple(losses), False)


def test_rates_rise_by_the_same_factor() -> None:
    assert rising_rates(1e-6, 1.0, 7) == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0])


def test_the_average_of_equal_losses_is_that_loss_from_the_start() -> None:
    assert smoothed([2.0] * 5) == pytest.approx([2.0] * 5)


def test_suggestions_of_a_curve_that_is_flat_and_falls_and_rises() -> None:
    """Steps 40 to 79 fall, fastest around 60; losses are smoothed, so places are a few steps later."""
    fall = [1.5 + 0.5 * math.cos(math.pi * step / 40) for step in range(1, 41)]
    shape = curve([2.0] * 40 + fall + [1.0 + 0.5 * step for step in range(1, 21)])
    found = {name: 99 * (math.log10(rate) + 6) / 6 for name, rate in shape.suggestions().items()}
    assert 55 <= found["valley"] <= 66
    assert 60 <= found["steepest"] <= 72
    lowest = shape.rates[shape.smoothed.index(min(shape.smoothed))]
    assert shape.suggestions()["minimum"] == pytest.approx(lowest / 10, rel=0.05)


def test_the_valley_is_near_the_fall_though_there_is_noise_before_it() -> None:
    noisy = [2.0 + 0.01 * (-1) ** step for step in range(40)]
    fall = [2.0 - 0.05 * step for step in range(1, 21)]
    found = curve(noisy + fall).suggestions()["valley"]
    assert 35 <= 59 * (math.log10(found) + 6) / 6 <= 55


@pytest.mark.parametrize("losses", [[], [1.0], [1.0] * 20, [float(step) for step in range(1, 30)]])
def test_nothing_is_suggested_where_the_loss_never_falls(losses: list[float]) -> None:
    rates = rising_rates(1e-6, 1.0, len(losses)) if len(losses) > 1 else (1e-6,) * len(losses)
    assert RateCurve(rates, tuple(losses), False).suggestions() == {}


def test_a_loss_of_a_multiple_of_the_lowest_has_diverged() -> None:
    falling = [2.0 - 0.1 * step for step in range(15)]
    assert not has_diverged(falling)
    assert has_diverged(falling + [20.0] * 4)
