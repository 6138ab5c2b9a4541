"""SIGTERM and SIGHUP end a command like Ctrl-C: cleanup runs, and the exit code is 128 plus the signal's number."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ftkit.distributed import launch_env

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Received:
    """The signal that interrupts a command; None for none, or for Ctrl-C."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def handle(self, signum: int, frame: FrameType | None) -> None:
        # A terminal or scheduler may send several signals; only the first interrupts, so that cleanup can finish.
        if self.signum is None:
            self.signum = signum
            raise KeyboardInterrupt

    def exit_code(self, code: int) -> int:
        """The exit code of an interrupted command: that of the signal instead of Ctrl-C's."""
        return code if self.signum is None or code != 128 + signal.SIGINT else 128 + self.signum


@contextmanager
def as_interrupts() -> Iterator[Received]:
    """Raise KeyboardInterrupt on SIGTERM and SIGHUP inside the context.

    Ignored signals stay ignored, as SIGHUP under `nohup`. Training replaces the handlers while it runs. Processes of a
    distributed launch keep the defaults: their launcher terminates them after a failure.
    """
    received = Received()
    if launch_env.launched() or threading.current_thread() is not threading.main_thread():
        yield received
        return
    caught = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, received.handle) for number in caught}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
