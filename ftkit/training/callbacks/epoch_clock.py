"""How the epoch under way is going: loss and speed, told to the listener."""

from __future__ import annotations

import time

from ftkit.training.events import StepDone
from ftkit.training.session import Session
from ftkit.training.state import totals

LISTEN_EVERY = 0.2
"""Seconds between looks at the totals on a GPU, each of which waits for it."""


class Clock:
    """Tells the listener of steps, seldom enough that looking doesn't slow a GPU down."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.started = self.told = time.perf_counter()
        self.seen_before = totals(session)[2]

    def is_due(self) -> bool:
        """Whether to look now. Several processes look at each step, since they must at the same ones."""
        session, since = self.session, time.perf_counter() - self.told
        last = session.progress.step == session.plan.batches.steps
        waits = session.device.type != "cpu" and session.accelerator.num_processes == 1
        return last or not waits or since >= LISTEN_EVERY

    def tell(self, rates: dict[str, float]) -> None:
        """Tell of the step just done, unless nothing of the epoch was trained on yet."""
        session = self.session
        now = self.told = time.perf_counter()
        loss, _, seen = totals(session)
        if not seen:
            return
        speed = (seen - self.seen_before) * session.accelerator.num_processes / (now - self.started)
        progress, steps = session.progress, session.plan.batches.steps
        session.listener.step_done(StepDone(progress.epoch + 1, progress.step, steps, loss / seen, rates, speed))
