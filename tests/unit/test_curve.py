"""Learning-rate curves at points worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ftkit.api import Curve
from ftkit.builtin.curves.curves import Constant, Cosine, Linear, OneCycle, Step, ftkit_curves
from ftkit.errors import RequestError

CURVES = ftkit_curves()


def factors(curve: Curve, steps: int, steps_per_epoch: int = 4, epochs: int = 2) -> list[float]:
    return [curve.factor(step, steps_per_epoch, epochs) for step in range(steps)]


def test_constant_stays() -> None:
    assert factors(Constant(), 8) == [1.0] * 8


def test_cosine_comes_down_in_half_a_wave() -> None:
    expected = [1.0, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060]
    assert factors(Cosine(), 8) == pytest.approx(expected, abs=1e-6)


def test_cosine_ends_near_its_final_value() -> None:
    curve = Cosine(final=0.2)
    assert [curve.factor(step, 50, 2) for step in (0, 50, 99)] == pytest.approx([1.0, 0.6, 0.200197], abs=1e-6)


def test_linear_comes_down_in_a_straight_line() -> None:
    assert factors(Linear(), 8) == [1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert factors(Linear(final=0.5), 8) == [1.0, 0.9375, 0.875, 0.8125, 0.75, 0.6875, 0.625, 0.5625]


def test_step_drops_after_every_so_many_epochs() -> None:
    curve = Step(every=2, gamma=0.1)
    points = [curve.factor(step, 4, 6) for step in (0, 7, 8, 15, 16, 23)]
    assert points == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


def test_step_counts_its_epochs_from_the_end_of_the_warm_up() -> None:
    curve = Step(warmup_epochs=1, every=2, gamma=0.1)
    points = [curve.factor(step, 4, 6) for step in (3, 4, 11, 12)]
    assert points == pytest.approx([0.8, 1.0, 1.0, 0.1])


def test_one_cycle_rises_and_falls() -> None:
    curve = OneCycle(rise=0.5, start=0.2, final=0.0)
    expected = [0.2, 0.317157, 0.6, 0.882843, 1.0, 0.853553, 0.5, 0.146447]
    assert factors(curve, 8) == pytest.approx(expected, abs=1e-6)


def test_one_cycle_peaks_at_three_tenths_by_default() -> None:
    points = [OneCycle().factor(step, 10, 10) for step in (0, 30, 65, 99)]
    assert points == pytest.approx([0.04, 1.0, 0.500002, 0.000507], abs=1e-6)


def test_warm_up_rises_to_the_curve_without_a_zero_step() -> None:
    assert factors(Constant(warmup_epochs=1), 6) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert factors(Linear(warmup_epochs=1), 8) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 0.75, 0.5, 0.25])


def test_warm_up_may_take_a_part_of_an_epoch() -> None:
    assert factors(Constant(warmup_epochs=0.5), 4) == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])


def test_warm_up_rises_to_where_one_cycle_starts_and_not_above() -> None:
    curve = OneCycle(warmup_epochs=1, rise=0.5, start=0.5, final=0.0)
    assert factors(curve, 7) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0])


def test_a_run_may_be_all_warm_up_but_not_shorter() -> None:
    assert factors(Cosine(warmup_epochs=2), 8)[-1] == pytest.approx(8 / 9)
    with pytest.raises(RequestError) as failure:
        Cosine(warmup_epochs=3).factor(0, 4, 2)
    assert failure.value.message == "lr_curve.warmup_epochs is 3, more than the run's epochs (2)"


@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("name", CURVES)
def test_no_factor_is_above_one_or_below_zero_and_the_order_of_asking_is_nothing(name: str, warmup: float) -> None:
    curve = CURVES[name](warmup_epochs=warmup)
    forward = [curve.factor(step, 7, 3) for step in range(21)]
    assert all(0 <= factor <= 1 for factor in forward)
    assert [curve.factor(step, 7, 3) for step in reversed(range(21))] == forward[::-1]


REFUSED: list[tuple[Callable[[], Curve], str]] = [
    (lambda: Constant(warmup_epochs=-1), "lr_curve.warmup_epochs is -1"),
    (lambda: Constant(warmup_epochs=float("nan")), "lr_curve.warmup_epochs is nan"),
    (lambda: Cosine(final=1.5), "lr_curve.final is 1.5"),
    (lambda: Linear(final=-0.1), "lr_curve.final is -0.1"),
    (lambda: Step(every=0), "lr_curve.every is 0"),
    (lambda: Step(gamma=2.0), "lr_curve.gamma is 2.0"),
    (lambda: OneCycle(rise=1.0), "lr_curve.rise is 1.0"),
    (lambda: OneCycle(start=float("nan")), "lr_curve.start is nan"),
    (lambda: OneCycle(final=-1.0), "lr_curve.final is -1.0"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_a_bad_option_is_named(make: Callable[[], Curve], message: str) -> None:
    with pytest.raises(RequestError) as failure:
        make()
    assert failure.value.message == message
    assert failure.value.hint
