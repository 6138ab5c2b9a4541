"""`optimizer.lr: auto`: the base learning rate that a few short trainings rank first on the validation split.

A curve over training images says at which rates training is unstable. Which rate suits other images is seen on those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf
from tempfile import TemporaryDirectory

from ftkit.config.load import Resolved
from ftkit.errors import FtkitError, RequestError, RunInterrupted, one_line, plural
from ftkit.planning.plan_checks import why_no_base_rate
from ftkit.planning.resolve import make_plan
from ftkit.planning.run_data.validation_images import single_training
from ftkit.planning.run_plan import Plan
from ftkit.strategies.schedule import Schedule
from ftkit.training.preparation.open_run import open_run

RATES: Mapping[bool, tuple[float, ...]] = {True: (3e-4, 1e-3, 3e-3, 1e-2), False: (3e-3, 1e-2, 3e-2, 1e-1)}
"""Base rates that race, by whether the optimizer's steps are about as long as the rate, as Adam's."""
EPOCHS = 2
"""Epochs of each training."""
NOT_FINITE = "not finite"


@dataclass(frozen=True)
class Lap:
    """The result of a short training.

    Attributes:
        score: The monitored metric after it, negated where lower is better; None where it diverged.
        loss: The validation loss after it, which decides between equal scores.
        shown: The metric as text.
    """

    rate: float
    score: float | None
    loss: float
    shown: str = "diverged"


def race_rates(resolved: Resolved, tell: Callable[[str], None] | None = None) -> tuple[Resolved, str]:
    """The request with the rate that wins in place of `auto`, and a note for its plan with the reason.

    For a cross-fitted run the trainings are those of its first fold.

    Args:
        tell: Called with a line before the trainings.

    Raises:
        RequestError: The run has no use for a base rate.
        FtkitError: A training fails, or all of them diverge.
    """
    plan = make_plan(single_training(resolved), tell)
    reason = why_no_base_rate(plan)
    if reason:
        raise RequestError(f"{plan.resolved.where('optimizer.lr')}: {reason}", "drop one of the two")
    rates, epochs = RATES[plan.optimizer.adam_like], plural(min(EPOCHS, plan.config.epochs), "epoch")
    if tell is not None:
        tell(f"learning rate auto: {len(rates)} trainings of {epochs}, at {', '.join(f'{rate:g}' for rate in rates)}")
    laps = [_trained(plan, rate) for rate in rates]
    ranked = sorted((-lap.score, lap.loss, lap.rate) for lap in laps if lap.score is not None)
    if not ranked:
        raise FtkitError(f"learning rate auto: training diverges at {rates[0]:g} and above", "give a lower --lr")
    best, label = ranked[0][-1], one_line(plan.metrics[plan.config.monitor].label)
    results = ", ".join(f"{lap.shown} at {lap.rate:g}" for lap in laps)
    return _with_rate(resolved, best), f"learning rate auto: {best:g}, by validation {label} after {epochs}: {results}"


def _with_rate(resolved: Resolved, rate: float) -> Resolved:
    optimizer = resolved.config.optimizer.model_copy(update={"lr": rate})
    return replace(resolved, config=resolved.config.model_copy(update={"optimizer": optimizer}))


def _short(plan: Plan, rate: float, folder: str) -> Plan:
    """The plan of a short training at a rate: the layer groups and scales of the last epoch, in a folder of its own."""
    epochs = min(EPOCHS, plan.config.epochs)
    update = {"epochs": epochs, "extended_from": None, "output": folder, "name": "run", "tracker": (), "patience": None}
    resolved = _with_rate(plan.resolved, rate)
    resolved = replace(resolved, config=resolved.config.model_copy(update=update))
    return replace(plan, resolved=resolved, schedule=Schedule(plan.schedule.groups, plan.schedule.rows[-1:] * epochs))


def _trained(plan: Plan, rate: float) -> Lap:
    """A short training at a rate; its folder is removed.

    Raises:
        RunInterrupted: A signal came.
        FtkitError: It failed, other than by a loss or weights that aren't finite.
    """
    from ftkit.training.train import train

    metric = plan.metrics[plan.config.monitor]
    with TemporaryDirectory(prefix="ftkit-lr-") as folder:
        short = _short(plan, rate, folder)
        try:
            last = train(short, open_run(short)).records[-1]
        except RunInterrupted as error:
            raise RunInterrupted(
                "stopped while learning rates were tried; nothing is kept", "start again", error.exit_code - 128
            ) from error
        except FtkitError as error:
            if NOT_FINITE not in error.message:
                raise
            return Lap(rate, None, inf)
    value, loss = last[f"val_{plan.config.monitor}"], last["val_loss"]
    if value is None or loss is None:
        return Lap(rate, None, inf)
    return Lap(rate, -value if metric.lower_is_better else value, loss, f"{value:.4f}")
