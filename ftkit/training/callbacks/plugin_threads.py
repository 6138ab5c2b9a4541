"""Event hooks of plugins, called in a thread, so that one that hangs delays neither the run nor signals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue

TICK = 0.05
"""Seconds between checks for a signal."""


@dataclass
class Call:
    """One call.

    Attributes:
        over: Set once it has returned or raised.
        error: The exception that it raised.
        gave_up: Why it isn't waited for any more; None where it is over.
    """

    function: Callable[[], object]
    over: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    gave_up: str | None = None


class PluginThread:
    """Runs the calls of one plugin one after another in the same thread, since a connection may belong to a thread.

    Attributes:
        hangs: Whether a call didn't return in time; then no other is made.
    """

    def __init__(self, name: str) -> None:
        self.hangs = False
        self._name = name
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[[], object], seconds: float, urgent: Callable[[], str | None]) -> Call:
        """Run a function, and wait for it until `urgent` returns a reason not to.

        Args:
            seconds: Time limit.
            urgent: Returns why not to wait any longer, or None.
        """
        if self._thread is None:
            # A daemon thread doesn't delay the end of the program.
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
            except BaseException as error:  # reported by the caller
                made.error = error
            made.over.set()
