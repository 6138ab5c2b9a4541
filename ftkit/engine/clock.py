"""How the epoch under way is going: loss and speed, told to the listener."""

from __future__ import annotations

import math
import time

from ftkit.engine.events import StepDone
from ftkit.engine.session import Session, totals
from ftkit.errors import FtkitError

LISTEN_EVERY = 0.2
"""Seconds between looks at the totals on a GPU, each of which waits for it."""


class Clock:
    """Tells the listener of steps, seldom enough that looking doesn't slow a GPU down."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.started = self.told = time.perf_counter()
        self.seen_before = totals(session)[2]

    def tell(self, rates: dict[str, float]) -> None:
        now, session = time.perf_counter(), self.session
        last = session.progress.step == session.plan.batches.steps
        if session.device.type != "cpu" and now - self.told < LISTEN_EVERY and not last:
            return
        self.told = now
        loss, _, seen = totals(session)
        require_finite(session, loss)
        speed = (seen - self.seen_before) * session.accelerator.num_processes / (now - self.started)
        progress, steps = session.progress, session.plan.batches.steps
        session.listener.step_done(StepDone(progress.epoch + 1, progress.step, steps, loss / seen, rates, speed))


def require_finite(session: Session, loss: float) -> None:
    if not math.isfinite(loss):
        raise FtkitError(
            f"the loss is {loss} in epoch {session.progress.epoch + 1}, step {session.progress.step}",
            "lower --lr; the checkpoints from before are kept",
        )
