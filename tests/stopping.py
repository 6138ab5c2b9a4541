"""Stops a training from within, as a signal from outside would."""

from __future__ import annotations

import os
import signal

from ftkit import Listener, StepDone


class StopAt(Listener):
    """Sends the process a signal after so many steps, as an impatient person or a scheduler would."""

    def __init__(self, step: int, signum: signal.Signals = signal.SIGTERM) -> None:
        self.left = step
        self.signum = signum

    def step_done(self, event: StepDone) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.signum)
