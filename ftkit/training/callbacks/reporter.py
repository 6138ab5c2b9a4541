"""The run's events for its listener, with loss and speed of the epoch under way."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ftkit.training.callbacks.trainer_callback import TrainerCallback
from ftkit.training.events import EpochDone, RunStarted, StepDone
from ftkit.training.run_context import RunContext

if TYPE_CHECKING:
    from ftkit.training.trainer import Trainer

REPORT_EVERY = 0.2
"""Seconds between reports on a GPU; each report waits for it."""


class EpochClock:
    """Speed of the epoch under way, and when to report it, seldom enough not to slow a GPU down."""

    def __init__(self, trainer: Trainer) -> None:
        session = trainer.session
        self._trainer = trainer
        self._steps = session.plan.batches.steps
        self._at_each_step = session.device.type == "cpu" or session.world > 1
        self._started = self._reported = time.perf_counter()
        self._seen_before = trainer.totals.own()[2]

    def is_due(self) -> bool:
        """Whether to report now. Several processes do so at each step, since they must at the same ones."""
        if self._at_each_step or self._trainer.session.progress.step == self._steps:
            return True
        return time.perf_counter() - self._reported >= REPORT_EVERY

    def images_per_second(self, seen: int) -> float:
        """Speed over all processes since the epoch started or the run resumed; `seen` is of this process."""
        self._reported = time.perf_counter()
        new = (seen - self._seen_before) * self._trainer.session.world
        return new / (self._reported - self._started)


class Reporter(TrainerCallback):
    """Calls the listener."""

    order = 450

    def on_open(self) -> None:
        session, report = self.trainer.session, self.trainer.session.built.report
        session.listener.started(
            RunStarted(
                plan=session.plan,
                run=session.run.path,
                device=str(session.device),
                precision=session.precision.training,
                workers=session.workers,
                loaded=report.summary() if report else "",
                resumed=session.progress.epoch if self.trainer.resumed else None,
                evaluation_precision=session.precision.evaluation,
                precision_reason=session.precision.reason,
            )
        )

    def on_phase_start(self, run: RunContext) -> None:
        trainable = sum(p.numel() for p in run.network.parameters() if p.requires_grad)
        assert self.trainer.active is not None, "a phase has started"
        self.trainer.session.listener.phase_started(self.trainer.active.phase, trainable)

    def on_report(self, rates: Mapping[str, float]) -> None:
        """Report the step just done, unless no image of the epoch was trained on yet."""
        session, progress = self.trainer.session, self.trainer.session.progress
        loss, _, seen = self.trainer.totals.own()
        speed = self.trainer.clock.images_per_second(seen)
        if seen:
            steps = session.plan.batches.steps
            session.listener.step_done(StepDone(progress.epoch + 1, progress.step, steps, loss / seen, rates, speed))

    def on_epoch_recorded(self, record: Mapping[str, Any]) -> None:
        self.trainer.session.listener.epoch_done(EpochDone(record, self.trainer.best.is_best))
