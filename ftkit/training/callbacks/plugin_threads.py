"""A plugin's listeners called in a thread of their own, so that one that hangs holds up neither run nor signals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue

TICK = 0.05
"""Seconds between looks at whether a signal has come."""


@dataclass
class Call:
    """One call.

    Attributes:
        over: Set once it has returned or raised.
        error: What it raised.
        gave_up: Why it isn't waited for any more; None where it is over.
    """

    function: Callable[[], object]
    over: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    gave_up: str | None = None


class PluginThread:
    """Runs the calls of one plugin one after the other, all in the same thread: a connection may be of one thread.

    Attributes:
        hangs: Whether a call didn't come back in time; then no other one is made.
    """

    def __init__(self, name: str) -> None:
        self.hangs = False
        self._name = name
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[[], object], seconds: float, urgent: Callable[[], str | None]) -> Call:
        """Run something, and wait for it so long, or until there is something more urgent.

        Args:
            urgent: Gives what that is, or None.
        """
        if self._thread is None:
            # Nothing waits for a daemon thread when the program ends.
            self._thread = threading.Thread(target=self._work, name=f"plugin {self._name}", daemon=True)
            self._thread.start()
        made, started = Call(function), time.monotonic()
        self._calls.put(made)
        while not made.over.wait(TICK):
            waited = time.monotonic() - started
            if (reason := urgent()) is not None:
                made.gave_up = f"{reason} came after {waited:.0f} s"
            elif waited > seconds:
                made.gave_up = f"it takes more than {seconds:g} s"
            if made.gave_up is not None:
                self.hangs = True
                break
        return made

    def close(self) -> None:
        """End the thread, unless it hangs."""
        self._calls.put(None)

    def _work(self) -> None:
        while (made := self._calls.get()) is not None:
            try:
                made.function()
            except BaseException as error:  # told by whoever waits
                made.error = error
            made.over.set()
