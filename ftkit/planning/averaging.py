"""Which averages of weights are evaluated when a run ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftkit.errors import RequestError

if TYPE_CHECKING:
    from ftkit.planning.run_plan import Plan

SHARES = (0.25, 0.5, 0.75)
"""Parts of the way from the first weights to the last at which weights are evaluated."""
PART = 4
"""The mean is over the last epochs of the last phase: one PART-th of them, and at least LEAST."""
LEAST = 2


@dataclass(frozen=True)
class Averaging:
    """What is evaluated beside the epochs.

    Attributes:
        shares: Parts of the way from the first weights to the last; empty where the first have a new random head.
        epochs: The epochs whose mean is evaluated, counted from 1; empty where the last phase is too short.
    """

    shares: tuple[float, ...]
    epochs: range

    def describe(self) -> str:
        """One clause for the plan."""
        parts = []
        if self.shares:
            parts.append(f"the weights at {', '.join(map(str, self.shares))} of the way from epoch 0 to the last epoch")
        if self.epochs:
            parts.append(f"the mean of epochs {self.epochs[0]} to {self.epochs[-1]}")
        return f"after the last epoch {' and '.join(parts)} are evaluated; the best is the model if it is better"


def choose_averaging(plan: Plan) -> Averaging | None:
    """The averages that a run evaluates; None for none."""
    return None if reason_without(plan) else _of_schedule(plan)


def reason_without(plan: Plan) -> str:
    """Why no averages are evaluated; empty where some are."""
    config = plan.config
    reasons = {
        "--no-weight-averaging": not config.weight_averaging,
        "the run trains no epochs": not config.epochs,
        "the weights are none": plan.weights.kind == "none",
        "a cross-fitted run averages the weights of its folds": bool(plan.fold_sizes),
        "--fsdp shards the weights": config.fsdp,
        "--zero-stage shards the training": bool(config.zero_stage),
    }
    found = next((reason for reason, holds in reasons.items() if holds), "")
    if found or not config.epochs:
        return found
    averaging = _of_schedule(plan)
    return "" if averaging.shares or averaging.epochs else "one epoch from a new random head has nothing to average"


def check_averaging(plan: Plan) -> tuple[str, ...]:
    """A note where weights aren't averaged because they are sharded.

    Raises:
        RequestError: Averaging is requested where it has no effect.
    """
    reason = reason_without(plan)
    if not reason or not plan.config.weight_averaging:
        return ()
    if plan.resolved.is_requested("weight_averaging"):
        where = plan.resolved.where("weight_averaging")
        raise RequestError(f"{where} has no effect: {reason}", "drop one of the two")
    sharded = plan.config.epochs and plan.weights.kind != "none" and (plan.config.fsdp or plan.config.zero_stage)
    return (f"no averages of weights are evaluated: {reason}",) if sharded else ()


def starts_trained(plan: Plan) -> bool:
    """Whether the first weights classify: their head is the probe's, or comes with the weights."""
    return plan.probe is not None or plan.config.keep_head


def _of_schedule(plan: Plan) -> Averaging:
    last = plan.schedule.phases[-1]
    length = last.stop - last.start
    count = max(LEAST, -(-length // PART))
    return Averaging(
        SHARES if starts_trained(plan) else (),
        range(last.stop - count + 1, last.stop + 1) if length >= LEAST else range(0),
    )
