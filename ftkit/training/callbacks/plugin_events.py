"""Run events for the hooks of plugins; errors are reported once and stop nothing, hooks that hang are abandoned."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

from ftkit.errors import FtkitError, RunInterrupted
from ftkit.plugin_errors import describe_exception, plugin_location
from ftkit.plugins import Plugin
from ftkit.plugins.loading import TIMEOUT, plugin_timeout
from ftkit.training.callbacks.model_selection import record_of_model
from ftkit.training.callbacks.plugin_threads import Call, PluginThread
from ftkit.training.callbacks.trainer_callback import TrainerCallback
from ftkit.training.stop_signals import StopFlag

if TYPE_CHECKING:
    from ftkit.training.trainer import Trainer

AT_THE_END = 10
"""Factor of the time limit of `ftkit_run_end`, which may upload a model."""
AFTER_A_SIGNAL = 10.0
"""Most seconds that a hook has once a signal has come."""


class PluginEvents(TrainerCallback):
    """Calls the event hooks of plugins; in the main process only."""

    order = 500

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        session, registry = trainer.session, trainer.session.plan.resolved.registry
        self._run = session.run
        self._flag = session.flag
        self._note = session.listener.note
        self._failed: set[tuple[str, str]] = set()
        self._plugins: list[Plugin] = [plugin for plugin in registry.plugins() if plugin.event_hooks]
        self._threads = {plugin.owner.name: PluginThread(plugin.owner.name) for plugin in self._plugins}
        for fault in registry.new_faults():
            self._note(str(fault))

    def on_open(self) -> None:
        self._call_hooks("ftkit_run_start", plan=self.trainer.session.plan.to_json(), resumed=self.trainer.resume)

    def on_epoch_recorded(self, record: Mapping[str, Any]) -> None:
        self._call_hooks("ftkit_epoch_end", record=dict(record))

    def on_exit(self, error: BaseException | None) -> None:
        """Call `ftkit_run_end`, and end the plugins' threads."""
        if error is None:
            record = record_of_model(self.trainer.session.plan, self._run)
            self._call_hooks("ftkit_run_end", status="done", record=record, error=None)
        else:
            interrupted = isinstance(error, RunInterrupted | KeyboardInterrupt)
            text = error.message if isinstance(error, FtkitError) else describe_exception(error)
            self._call_hooks(
                "ftkit_run_end", status="interrupted" if interrupted else "failed", record=None, error=text
            )
        for thread in self._threads.values():
            thread.close()

    def _call_hooks(self, hook: str, **facts: Any) -> None:
        seconds, urgent = self._allowed(hook), _new_signal(self._flag)
        for plugin in self._plugins:
            thread = self._threads[plugin.owner.name]
            if hook in plugin.event_hooks and not thread.hangs:
                # Each gets a copy, which it may change.
                function = partial(getattr(plugin.hooks, hook), run=self._run.path, **deepcopy(facts))
                self._report_failure(plugin.owner.name, hook, thread.call(function, seconds, urgent))

    def _allowed(self, hook: str) -> float:
        """Time limit in seconds."""
        seconds = plugin_timeout() * (AT_THE_END if hook == "ftkit_run_end" else 1)
        return seconds if self._flag.signum is None else min(seconds, AFTER_A_SIGNAL)

    def _report_failure(self, plugin: str, hook: str, made: Call) -> None:
        if made.gave_up is not None:
            limit = "" if "came after" in made.gave_up else f" ({TIMEOUT} sets the limit)"
            self._note(f"plugin {plugin!r} hangs in {hook}: {made.gave_up}{limit}; it isn't called again in this run")
        elif made.error is not None and (plugin, hook) not in self._failed:
            self._failed.add((plugin, hook))
            place = plugin_location(made.error)
            where = f" ({place[1]})" if place is not None else ""
            self._note(f"plugin {plugin!r} failed in {hook}: {describe_exception(made.error)}{where}")


def _new_signal(flag: StopFlag) -> Callable[[], str | None]:
    """A function that returns the name of a signal that has come since, or None."""
    before = flag.signum
    return lambda: signal.Signals(flag.signum).name if flag.signum is not None and before is None else None
