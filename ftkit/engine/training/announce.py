"""Run events told to plugins, whose errors are told once and stop nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ftkit.engine.training.events import EpochDone, Listener, Start, StepDone
from ftkit.engine.training.session import Session
from ftkit.errors import FtkitError, RunInterrupted
from ftkit.plugins import Plugin, Registry
from ftkit.plugins.loading import reason
from ftkit.run_folder import RunFolder
from ftkit.spec.schedule import Phase


@contextmanager
def announced(session: Session) -> Iterator[None]:
    """Tell plugins of what the session does meanwhile, and how it ends; the main process alone does so."""
    if not session.is_main:
        yield
        return
    announcer = Announcer(session.listener, session.plan.resolved.registry, session.run)
    session.listener = announcer
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, RunInterrupted | KeyboardInterrupt)
        text = error.message if isinstance(error, FtkitError) else reason(error)
        announcer.ended("interrupted" if interrupted else "failed", None, text)
        raise
    best = next((r for r in session.run.records() if r["epoch"] == session.progress.best_epoch), None)
    announcer.ended("done", best, None)


class Announcer(Listener):
    """Passes everything on to another listener, and to plugins what they listen to."""

    def __init__(self, listener: Listener, registry: Registry, run: RunFolder) -> None:
        self._listener = listener
        self._run = run
        self._failed: set[tuple[str, str]] = set()
        self._plugins: list[Plugin] = [plugin for plugin in registry.plugins() if plugin.listens]
        for fault in registry.untold():
            listener.note(str(fault))

    def started(self, event: Start) -> None:
        self._listener.started(event)
        self._tell("ftkit_run_start", plan=event.plan.to_json())

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

    def _tell(self, hook: str, **facts: Any) -> None:
        for plugin in self._plugins:
            if hook not in plugin.listens:
                continue
            try:
                getattr(plugin.hooks, hook)(run=self._run.path, **facts)
            except (Exception, SystemExit) as error:
                if (plugin.owner.name, hook) not in self._failed:
                    self._failed.add((plugin.owner.name, hook))
                    self._listener.note(f"plugin {plugin.owner.name!r} failed in {hook}: {reason(error)}")
