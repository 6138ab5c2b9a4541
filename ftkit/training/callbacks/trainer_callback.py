"""The trainer's own callbacks, and the calls of all callbacks by event."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from ftkit.errors import RequestError
from ftkit.files.json_text import replace_nonfinite
from ftkit.parts.callback import Callback
from ftkit.plugin_errors import plugin_boundary

if TYPE_CHECKING:
    from ftkit.runs.averages import Average
    from ftkit.training.run_context import RunContext
    from ftkit.training.trainer import Trainer


class TrainerCallback(Callback):
    """One of the trainer's own: it may use all of the trainer, and has events beside those of `Callback`.

    Attributes:
        name: The name of its state in a checkpoint.
    """

    name: ClassVar[str] = ""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_open(self) -> None:
        """The run is about to start or to resume, before the probe."""

    def on_step_start(self) -> None:
        """Before the forward pass of a step."""

    def allows_update(self, loss: Tensor, step: int) -> bool:
        """Whether the optimizer may use the step's gradients.

        Args:
            loss: Sum over the images of this process, on the device.
            step: Counted from 0 in the epoch.
        """
        return True

    def on_update_refused(self, step: int) -> None:
        """The stepper has left the step out."""

    def on_report(self, rates: Mapping[str, float]) -> None:
        """After a step at which the device may be waited for: at each on a CPU, seldom enough on a GPU.

        Args:
            rates: Learning rates of the step by layer group.
        """

    def on_step_boundary(self) -> None:
        """Between two steps of an epoch."""

    def on_epoch_trained(self) -> None:
        """After the last step of an epoch, before its validation."""

    def on_epoch_recorded(self, record: Mapping[str, Any]) -> None:
        """The record of an epoch is complete and, in the main process, in `metrics.jsonl`."""

    def on_checkpoint(self) -> None:
        """Before a checkpoint is written; an exception prevents it."""

    def on_interrupt(self) -> None:
        """A signal has come; the run ends after this."""

    def on_averages(self, averages: Sequence[Average]) -> None:
        """The averages of weights were evaluated, in a run that evaluates some."""

    def on_exit(self, error: BaseException | None) -> None:
        """The run is over, in whichever way."""


class Callbacks:
    """All callbacks of a run, in order, and for each event the calls of those that implement it.

    Args:
        own: The trainer's own.
        chosen: The callbacks of the config by name.
    """

    def __init__(self, own: list[TrainerCallback], chosen: Mapping[str, Callback]) -> None:
        self.chosen = chosen
        named = [*((callback.name, callback) for callback in own), *chosen.items()]
        self._ordered: list[tuple[str, Callback]] = sorted(named, key=lambda item: item[1].order)
        self._calls: dict[str, tuple[Callable[..., Any], ...]] = {}

    def calls(self, event: str) -> tuple[Callable[..., Any], ...]:
        """The methods of an event, in order; methods that aren't overridden are left out."""
        if event not in self._calls:
            self._calls[event] = tuple(self._method(name, c, event) for name, c in self._implementing(event))
        return self._calls[event]

    def extended_record(self, run: RunContext, record: Mapping[str, Any]) -> dict[str, Any]:
        """An epoch's record with the numbers that callbacks add at its end.

        Raises:
            RequestError: A callback returns something other than numbers by new names.
        """
        extended = dict(record)
        for name, callback in self._implementing("on_epoch_end"):
            found = self._method(name, callback, "on_epoch_end")(run, extended)
            if not isinstance(callback, TrainerCallback):
                _check_numbers(name, found, extended)
            extended |= replace_nonfinite(found)
        return extended

    def weights_to_evaluate(self, run: RunContext) -> dict[str, Mapping[str, Tensor]]:
        """The weights that callbacks bring, by the callback's name without its plugin's."""
        found = {
            name.rpartition("/")[2]: self._method(name, callback, "weights_to_evaluate")(run)
            for name, callback in self._implementing("weights_to_evaluate")
        }
        return {name: weights for name, weights in found.items() if weights}

    def names_of_weights(self) -> list[str]:
        """Names of the weights that callbacks may bring."""
        return [name.rpartition("/")[2] for name, _ in self._implementing("weights_to_evaluate")]

    def state_dict(self) -> dict[str, Mapping[str, Any]]:
        """The states by name, of callbacks that define one."""
        states = {name: self._method(name, own, "state_dict")() for name, own in self._implementing("state_dict")}
        wrong = next((name for name, state in states.items() if not isinstance(state, Mapping)), None)
        if wrong is not None:
            raise RequestError(
                f"state_dict of callback {wrong!r} returned {type(states[wrong]).__name__}", "return a mapping"
            )
        return states

    def load_state_dict(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore the states; a callback of the config whose state was empty has nothing to restore.

        Raises:
            ValueError: The state of a callback is missing.
        """
        for name, callback in self._implementing("state_dict"):
            if name not in states:
                raise ValueError(f"it has no state of callback {name!r}")
            if states[name] or isinstance(callback, TrainerCallback):
                self._method(name, callback, "load_state_dict")(states[name])

    def _implementing(self, event: str) -> list[tuple[str, Callback]]:
        return [(name, callback) for name, callback in self._ordered if _implements(callback, event)]

    def _method(self, name: str, callback: Callback, event: str) -> Callable[..., Any]:
        method: Callable[..., Any] = getattr(callback, event)
        if isinstance(callback, TrainerCallback):
            return method

        @wraps(method)
        def named(*args: Any) -> Any:
            with plugin_boundary(f"{event} of callback {name!r}", callback):
                return method(*args)

        return named


def _implements(callback: Callback, event: str) -> bool:
    if not isinstance(callback, TrainerCallback) and not hasattr(Callback, event):
        return False
    return getattr(type(callback), event) is not getattr(TrainerCallback, event)


def _check_numbers(name: str, found: object, record: Mapping[str, Any]) -> None:
    if not isinstance(found, Mapping) or not all(isinstance(n, int | float) for n in found.values()):
        raise RequestError(
            f"on_epoch_end of callback {name!r} returned {found!r:.100}", "return a mapping of names to numbers"
        )
    taken = next((key for key in found if not isinstance(key, str) or key in record), None)
    if taken is not None:
        raise RequestError(f"callback {name!r} adds {taken!r} to a record that has it", "give it another name")
