"""Stops a training from within, as a signal from outside would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

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


KILLED = """
import os, signal
import ftkit

class Killer(ftkit.Listener):
    def note(self, text):
        if {when!r} in text:
            os.kill(os.getpid(), signal.SIGKILL)

ftkit.train(ftkit.plan(**{settings!r}), Killer())
"""


def train_until_killed(when: str, settings: Mapping[str, Any]) -> None:
    """Train in a process of its own, which is killed at the first note that contains a text."""
    code = KILLED.format(when=when, settings=dict(settings))
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
