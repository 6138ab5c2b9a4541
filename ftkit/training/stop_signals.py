"""Signals as a flag that the loop looks at between steps, so that a run stops whole; and what ends a run that hangs.

Python runs its handlers between two operations of the main thread alone. Where that waits, for an image that doesn't
come or for another process, a flag would never be looked at. So a thread hears of the signal too, by way of
`signal.set_wakeup_fd`, and interrupts the main one if the run hasn't come to its end in time.
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
"""Seconds in which a run that was asked to stop should come to the end of its step, at least."""
STEPS, RECENT = 3.0, 100
"""So many times the longest time between two of so many recent looks at the flag may it take, where that is more."""
TICK = 0.1
"""Seconds between looks at whether it did."""
END = 0
"""Tells the thread that the run is over; no signal has this number."""
LAST = 10.0
"""Seconds from the interrupt to the end of the process, where not even that helps."""


class StopFlag:
    """The first signal that came, or None. A second Ctrl-C stops at once, as a person expects.

    Attributes:
        saving: Whether weights are being written, which takes as long as it takes.
        overdue: Seconds that the run had to come to the end of its step, once it didn't.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.overdue: float | None = None
        self.saving = False
        self._heard = threading.Event()
        self._looked: float | None = None
        self._times: deque[float] = deque(maxlen=RECENT)

    def receive(self, signum: int, frame: FrameType | None) -> None:
        if self.overdue is not None or (self.signum is not None and signum == signal.SIGINT):
            raise KeyboardInterrupt
        self.signum = self.signum or signum

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        """Give the run the time that it takes to write something meanwhile."""
        self.saving = True
        try:
            yield
        finally:
            self.saving = False

    def look(self) -> int:
        """The signal that came, or 0."""
        now = time.monotonic()
        if self._looked is not None:
            self._times.append(now - self._looked)
        self._looked = now
        return self.signum or 0

    def heard(self) -> None:
        """The run stops by itself, and takes the time that its checkpoint takes."""
        self._heard.set()

    @property
    def limit(self) -> float:
        """Seconds that it may take until the flag is looked at."""
        return max(GRACE, STEPS * max(self._times, default=0.0))

    def watch(self, wakeup: socket.socket) -> None:
        """Wait for a signal, and then for the run to end; interrupt it where it doesn't. For a thread."""
        while (number := wakeup.recv(1)[0]) not in (*SIGNALS, END):
            continue
        limit = left = self.limit
        while left > 0:
            if number == END or self._heard.wait(TICK):
                return
            left = limit if self.saving else left - TICK
        self.overdue = limit
        main = threading.main_thread().ident
        assert main is not None, "it runs"
        signal.pthread_kill(main, number)
        if not self._heard.wait(LAST):
            _leave(number)


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Catch the signals that ask a run to stop; handlers are put back afterwards.

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
        flag.heard()
        signal.set_wakeup_fd(outer)
        for number, handler in before.items():
            signal.signal(number, handler)
        # Its end alone would tell nothing: workers that were forked have it open too.
        wakeup.setblocking(True)
        wakeup.send(bytes([END]))
        watcher.join()
        wakeup.close()
        ours.close()


def _leave(signum: int) -> None:
    """End a process whose main thread doesn't come back: it waits in C for another process, or for a broken disk."""
    if launch_env.rank() == 0:
        name = signal.Signals(signum).name
        said = f"interrupted: stopped at once by {name}, since nothing else ended the run: checkpoints are whole"
        sys.stderr.write(f"{said}\n")
        sys.stderr.flush()
    os._exit(128 + signum)
