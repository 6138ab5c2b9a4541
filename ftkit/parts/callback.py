"""A callback: work at the events of a run, with state of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from ftkit.training.run_context import RunContext


class Callback:
    """Called at the events of a run, in every process. Subclasses are dataclasses; their fields are options.

    An exception ends the run. The state is saved with each checkpoint and restored on resume, so that a resumed run
    ends with the same bytes. With several processes, each must make the same changes to the network. A callback
    doesn't freeze layers: a `Strategy` does.

    Attributes:
        order: Callbacks are called by ascending order; those of equal order as the config lists them. ftkit's own are
            at 100 (best epoch, early stopping), 200 (weight drift) and from 300 (trackers, checkpoints).
        needs_whole_weights: Whether it reads or changes parameters. With `--fsdp` and `--zero-stage` a process
            doesn't hold all of them, so the run is refused.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    order: ClassVar[int] = 250
    needs_whole_weights: ClassVar[bool] = False

    def check(self, plan: Mapping[str, Any]) -> None:
        """Refuse a run that the callback can't work in, before it starts.

        Args:
            plan: What `ftkit plan --json` prints.

        Raises:
            RequestError: Names the option and the remedy.
        """

    def describe(self) -> str:
        """One line for the plan on what the callback does with these options; empty for none."""
        return ""

    def on_run_start(self, run: RunContext) -> None:
        """Before the first step of a new or resumed run, after `load_state_dict`; `run.epoch` tells them apart."""

    def on_phase_start(self, run: RunContext) -> None:
        """Before the first step of a phase, in which the layer groups of `run.trainable` train."""

    def on_step_end(self, run: RunContext) -> None:
        """After each optimizer step; not after one that `--on-nan skip` leaves out."""

    def on_epoch_end(self, run: RunContext, record: Mapping[str, Any]) -> Mapping[str, float]:
        """After the validation of each epoch, and of epoch 0 where the first weights are evaluated.

        Args:
            record: The epoch's record in `metrics.jsonl` so far.

        Returns:
            Numbers to add to the record, by names that it doesn't have yet.
        """
        return {}

    def on_run_end(self, run: RunContext) -> None:
        """After the last epoch, before the last model is written."""

    def weights_to_evaluate(self, run: RunContext) -> Mapping[str, Tensor]:
        """Other values of parameters and buffers to evaluate at each epoch's end, such as an average; by default none.

        The validation metrics with them are recorded as `val_NAME_accuracy` and so on, where NAME is the callback's
        name. They are written as the run's model where they reach the best value of the monitored metric. The main
        process's values are used.

        Returns:
            Tensors by their names in `run.network.state_dict()`, in the same shapes.
        """
        return {}

    def state_dict(self) -> Mapping[str, Any]:
        """State to save: JSON values, tensors, and lists and dicts of them; the main process's is saved."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, in every process; tensors are on the CPU."""


def replaces_weights(callback: Callback) -> bool:
    """Whether a callback's weights may become the model in place of those that are trained."""
    return type(callback).weights_to_evaluate is not Callback.weights_to_evaluate
