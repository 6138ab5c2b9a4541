"""The learning-rate range test: the loss over a few steps of a planned run, at rising rates (Smith 2015).

The steps are those of the run's last phase, in which most layer groups train, at its scales of the base rate and from
the start that the run would have: pretrained weights, and the probe's head. All that they change is discarded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ftkit.activation_cache.feed import Feed
from ftkit.activation_cache.phase_cuts import open_run_cache
from ftkit.activation_cache.run_cache import RunCache
from ftkit.data.loading.workers import explain_worker_errors
from ftkit.errors import FtkitError, RequestError
from ftkit.experiments.rate_curve import RateCurve, has_diverged, rising_rates
from ftkit.optim.optimizers import set_learning_rates
from ftkit.optim.rates import peak_rates
from ftkit.planning.plan_checks import why_no_base_rate
from ftkit.planning.run_plan import Plan
from ftkit.plugin_errors import plugin_boundary
from ftkit.runs.run_folder import RunFolder
from ftkit.training.events import Listener
from ftkit.training.memory_errors import explain_memory_errors
from ftkit.training.preparation.gradient_check import require_gradients
from ftkit.training.run_start import solve_head
from ftkit.training.session import Session, open_session
from ftkit.training.steps.active_phase import ActivePhase, enter_phase, freeze
from ftkit.training.steps.step_gradient import step_gradient
from ftkit.training.stop_signals import StopFlag
from ftkit.training.trainer import Trainer

LOWEST, HIGHEST = 1e-6, 10.0
"""Base learning rates of the first and the last step."""
STEPS = 100


def range_test(plan: Plan, listener: Listener | None = None) -> RateCurve:
    """Measure the loss of a plan's steps at rising base rates. It writes nothing but cached activations.

    Raises:
        RequestError: The plan trains nothing, or not with the base rate.
        FtkitError: The network or the data can't be used.
    """
    reason = why_no_base_rate(plan)
    if reason:
        raise RequestError(f"there is no base rate to find: {reason}", "choose a strategy that trains at the base rate")
    if not plan.optimizer.uses_curve:
        raise RequestError(
            f"optimizer {plan.config.optimizer.name} uses the learning rate in the first step only", "choose another"
        )
    with TemporaryDirectory(prefix="ftkit-lr-") as folder:
        run = RunFolder(Path(folder))
        with plugin_boundary("the learning-rate range test"), explain_worker_errors():
            session = open_session(plan, run, listener or Listener(), StopFlag())
            with explain_memory_errors(session):
                return _measured(session)


def _measured(session: Session) -> RateCurve:
    trainer = Trainer(session, require_gradients(session))
    cache: RunCache | None = None
    try:
        cache = open_run_cache(session, trainer.stop_if_asked)
        if session.plan.probe:
            trainer.feed = cache.probe_feed() if cache is not None else session.uncached
            solve_head(trainer)
        phase = session.plan.schedule.phases[-1]
        session.progress.epoch = phase.start
        modes = freeze(session, phase)
        feed = cache.feed(phase) if cache is not None else session.uncached
        active = enter_phase(session, phase, modes, feed, trainer.reach, None)
        return _rise(trainer, active)
    finally:
        for kept in (cache, *session.decoded.values()):
            if kept is not None:
                kept.close()
        trainer.close()


def _rise(trainer: Trainer, active: ActivePhase) -> RateCurve:
    """The steps of the test."""
    session, plan = trainer.session, trainer.session.plan
    rates, losses = rising_rates(LOWEST, HIGHEST, STEPS), list[float]()
    active.modes.apply()
    for rate, (step, batches) in zip(rates, _steps(session, active.feed), strict=False):
        set_learning_rates(session.optimizer, peak_rates(plan.schedule.rows[-1], rate, plan.config.group_lr))
        total = step_gradient(session, active, batches, step, trainer.totals)
        total = session.accelerator.reduce(total, "sum")
        loss = float(total) / len(plan.batches.step(step))
        if not math.isfinite(loss) or has_diverged([*losses, loss]):
            active.stepper.drop()
            break
        losses.append(loss)
        active.stepper.apply()
    if not losses:
        raise FtkitError("the loss isn't finite before any update", "check the images and labels, or --precision fp32")
    return RateCurve(rates[: len(losses)], tuple(losses), len(losses) < len(rates))


def _steps(session: Session, feed: Feed) -> Iterator[tuple[int, Iterator[Any]]]:
    """Steps of the run's epochs from its position on, each with the batches of its epoch."""
    while True:
        session.order.start(session.progress.epoch)
        batches = iter(feed.train_loader)
        for step in range(session.plan.batches.steps):
            session.progress.step = step
            yield step, batches
        session.progress.epoch, session.progress.step = session.progress.epoch + 1, 0
