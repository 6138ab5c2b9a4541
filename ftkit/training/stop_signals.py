"""Signals as a flag that the loop checks between steps, so that a run stops whole; and the end of a run that hangs.

Python runs signal handlers between two operations of the main thread only. While that waits for an image or for another
process, nothing would check the flag. So a thread receives the signal too, through `signal.set_wakeup_fd`, and
interrupts the main thread if the run hasn't ended in time.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ftkit.distributed import launch_env

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
GRACE = 10.0
"""Seconds, at least, that a run has to end its step once a signal has come."""
STEPS, RECENT = 3.0, 100
"""It has `STEPS` times the longest of the last `RECENT` intervals between checks of the flag, where that is more."""
TICK = 0.1
"""Seconds between checks of whether it has ended."""
END = 0
"""Sent to the thread when the run is over; no signal has this number."""
LAST = 10.0
"""Seconds from the interrupt to the end of the process, where the interrupt has no effect."""


class StopFlag:
    """The first signal that came, or None. A second Ctrl-C stops at once.

    Attributes:
        saving: Whether weights are being written; that time doesn't count.
        overdue: The limit that the run has exceeded, in seconds; None while it hasn't.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.overdue: float | None = None
        self.saving = False
        self._stopping = threading.Event()
        self._checked: float | None = None
        self._times: deque[float] = deque(maxlen=RECENT)

    def receive(self, signum: int, frame: FrameType | None) -> None:
        if self.overdue is not None or (self.signum is not None and signum == signal.SIGINT):
            raise KeyboardInterrupt
        self.signum = self.signum or signum

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        """Don't count the time that is spent meanwhile."""
        self.saving = True
        try:
            yield
        finally:
            self.saving = False

    def check(self) -> int:
        """The signal that came, or 0."""
        now = time.monotonic()
        if self._checked is not None:
            self._times.append(now - self._checked)
        self._checked = now
        return self.signum or 0

    def acknowledge(self) -> None:
        """The run stops by itself: don't interrupt it any more."""
        self._stopping.set()

    @property
    def limit(self) -> float:
        """Seconds that it may take until the flag is checked."""
        return max(GRACE, STEPS * max(self._times, default=0.0))

    def watch(self, wakeup: socket.socket) -> None:
        """Wait for a signal, and interrupt the run if it doesn't end in time. Runs in a thread."""
        while (number := wakeup.recv(1)[0]) not in (*SIGNALS, END):
            continue
        limit = left = self.limit
        while left > 0:
            if number == END or self._stopping.wait(TICK):
                return
            left = limit if self.saving else left - TICK
        self.overdue = limit
        main = threading.main_thread().ident
        assert main is not None, "the main thread runs"
        signal.pthread_kill(main, number)
        if not self._stopping.wait(LAST):
            _leave(number)


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Catch the signals that stop a run; earlier handlers are restored afterwards.

    A signal that this process was started to ignore, as `nohup` does with SIGHUP, stays ignored. Outside the main
    thread, where Python allows no handlers, the flag is never set.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    caught = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, flag.receive) for number in caught}
    ours, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    outer = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=flag.watch, args=(ours,), name="ftkit-signals", daemon=True)
    watcher.start()
    try:
        yield flag
    finally:
        flag.acknowledge()
        signal.set_wakeup_fd(outer)
        for number, handler in before.items():
            signal.signal(number, handler)
        # Closing it would not end the wait: forked workers have it open too.
        wakeup.setblocking(True)
        wakeup.send(bytes([END]))
        watcher.join()
        wakeup.close()
        ours.close()


def _leave(signum: int) -> None:
    """End a process whose main thread can't be interrupted: it waits in C for another process or for a broken disk."""
    if launch_env.rank() == 0:
        name = signal.Signals(signum).name
        text = f"interrupted: stopped at once by {name}, since nothing else ended the run: checkpoints are whole"
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    os._exit(128 + signum)
