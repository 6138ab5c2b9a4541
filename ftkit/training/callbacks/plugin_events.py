"""Run events reported to plugins, whose errors are noted once and stop nothing, and whose hangs hold nothing up."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

from ftkit.errors import FtkitError, RunInterrupted
from ftkit.plugin_errors import describe_exception, plugin_location
from ftkit.plugins import Plugin, Registry
from ftkit.plugins.loading import TIMEOUT, plugin_timeout
from ftkit.runs.run_folder import RunFolder
from ftkit.strategies.schedule import Phase
from ftkit.training.callbacks.plugin_threads import Call, PluginThread
from ftkit.training.events import EpochDone, Listener, Start, StepDone
from ftkit.training.session import Session
from ftkit.training.stop_signals import StopFlag

AT_THE_END = 10
"""So many times as long as other listeners may `ftkit_run_end` take, which may send a model somewhere."""
AFTER_A_SIGNAL = 10.0
"""Seconds that it has at most in a run that was asked to stop."""


@contextmanager
def announced(session: Session, resumed: bool = False) -> Iterator[None]:
    """Report to plugins what the session does meanwhile, and how it ends; the main process alone does so.

    Args:
        resumed: Whether the run goes on in its folder, from a checkpoint or from the start.
    """
    if not session.is_main:
        yield
        return
    announcer = Announcer(session.listener, session.plan.resolved.registry, session.run, session.flag, resumed)
    session.listener = announcer
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, RunInterrupted | KeyboardInterrupt)
        text = error.message if isinstance(error, FtkitError) else describe_exception(error)
        announcer.ended("interrupted" if interrupted else "failed", None, text)
        raise
    best = next((r for r in session.run.records() if r["epoch"] == session.progress.best_epoch), None)
    announcer.ended("done", best, None)


class Announcer(Listener):
    """Passes everything on to another listener, and to plugins what they listen to."""

    def __init__(self, listener: Listener, registry: Registry, run: RunFolder, flag: StopFlag, resumed: bool) -> None:
        self._listener = listener
        self._run = run
        self._flag = flag
        self._resumed = resumed
        self._failed: set[tuple[str, str]] = set()
        self._plugins: list[Plugin] = [plugin for plugin in registry.plugins() if plugin.event_hooks]
        self._threads = {plugin.owner.name: PluginThread(plugin.owner.name) for plugin in self._plugins}
        for fault in registry.new_faults():
            listener.note(str(fault))

    def started(self, event: Start) -> None:
        self._listener.started(event)
        self._tell("ftkit_run_start", plan=event.plan.to_json(), resumed=self._resumed)

    def phase_started(self, phase: Phase, trainable: int) -> None:
        self._listener.phase_started(phase, trainable)

    def step_done(self, event: StepDone) -> None:
        self._listener.step_done(event)

    def epoch_done(self, event: EpochDone) -> None:
        self._listener.epoch_done(event)
        self._tell("ftkit_epoch_end", record=dict(event.record))

    def note(self, text: str) -> None:
        self._listener.note(text)

    def ended(self, status: str, record: Mapping[str, Any] | None, error: str | None) -> None:
        """The run is over; nothing more is told."""
        self._tell("ftkit_run_end", status=status, record=record, error=error)
        for thread in self._threads.values():
            thread.close()

    def _tell(self, hook: str, **facts: Any) -> None:
        seconds, urgent = self._allowed(hook), _new_signal(self._flag)
        for plugin in self._plugins:
            thread = self._threads[plugin.owner.name]
            if hook in plugin.event_hooks and not thread.hangs:
                # Each gets facts of its own: what one does to them is no other's affair.
                function = partial(getattr(plugin.hooks, hook), run=self._run.path, **deepcopy(facts))
                self._note_failure(plugin.owner.name, hook, thread.call(function, seconds, urgent))

    def _allowed(self, hook: str) -> float:
        """Seconds that a listener has."""
        seconds = plugin_timeout() * (AT_THE_END if hook == "ftkit_run_end" else 1)
        return seconds if self._flag.signum is None else min(seconds, AFTER_A_SIGNAL)

    def _note_failure(self, plugin: str, hook: str, made: Call) -> None:
        if made.gave_up is not None:
            limit = "" if "came after" in made.gave_up else f" ({TIMEOUT} sets the limit)"
            self._listener.note(
                f"plugin {plugin!r} hangs in {hook}: {made.gave_up}{limit}; it isn't called again in this run"
            )
        elif made.error is not None and (plugin, hook) not in self._failed:
            self._failed.add((plugin, hook))
            place = plugin_location(made.error)
            where = f" ({place[1]})" if place is not None else ""
            self._listener.note(f"plugin {plugin!r} failed in {hook}: {describe_exception(made.error)}{where}")


def _new_signal(flag: StopFlag) -> Callable[[], str | None]:
    """Gives the name of the signal that asks the run to stop, where none had come before."""
    before = flag.signum
    return lambda: signal.Signals(flag.signum).name if flag.signum is not None and before is None else None
