"""A callback: work done at the events of a run, with state of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from ftkit.training.run_context import RunContext


class Callback:
    """Is called at the events of a run, in every process. Subclasses are dataclasses; fields are options.

    What it raises ends the run. Its state is saved with each checkpoint and given back when the run resumes, so that a
    resumed run ends with the same bytes. Freezing layers is no work for a callback: a `Strategy` does that.

    Attributes:
        order: Callbacks are called by ascending order, and by their place in the config where it is equal. ftkit's
            own use 100 (numbers that watch the loss), 200 (weights), 300 (records) and 400 (files).
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    order: ClassVar[int] = 250

    def on_run_start(self, run: RunContext) -> None:
        """Before the first step of a run or of a resumed run, after `load_state_dict`."""

    def on_phase_start(self, run: RunContext) -> None:
        """Other layer groups train from now on."""

    def on_step_end(self, run: RunContext) -> None:
        """After each optimizer step."""

    def on_epoch_end(self, run: RunContext, record: Mapping[str, Any]) -> Mapping[str, float]:
        """After the validation of each epoch.

        Args:
            record: The epoch's line in `metrics.jsonl` so far.

        Returns:
            Numbers to add to the record, by name; by default none.
        """
        return {}

    def on_run_end(self, run: RunContext) -> None:
        """After the last epoch, before the last model is written."""

    def state_dict(self) -> Mapping[str, Any]:
        """State to save: JSON values and tensors, by name. Every process is asked; the main process's is saved."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave; tensors are on the CPU. It is called in every process."""
