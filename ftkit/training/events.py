"""Events of a run, for its listener; the training itself never prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkit.planning.run_plan import Plan
from ftkit.strategies.schedule import Phase


@dataclass(frozen=True)
class RunStarted:
    """A run starts or resumes.

    Attributes:
        loaded: One line on the pretrained weights that were loaded; empty without them.
        resumed: Whole epochs done before, None for a new run.
        precision: Of training steps.
        evaluation_precision: Of validation, and of later evaluations of the model.
        precision_reason: Why these were chosen; empty where they were requested.
    """

    plan: Plan
    run: Path
    device: str
    precision: str
    workers: int
    loaded: str
    resumed: int | None
    evaluation_precision: str = ""
    precision_reason: str = ""


@dataclass(frozen=True)
class StepDone:
    """An optimizer step has ended; `loss` is the mean over the epoch so far, `step` counts from 1."""

    epoch: int
    step: int
    steps: int
    loss: float
    rates: Mapping[str, float]
    images_per_second: float


@dataclass(frozen=True)
class EpochDone:
    """An epoch has ended; `record` is its line in `metrics.jsonl`."""

    record: Mapping[str, Any]
    is_best: bool


class Listener:
    """Called with the events of a run, in each process that trains; by default its methods do nothing.

    An exception ends the run. Pass it to `ftkit.train` or `ftkit.resume`.
    """

    def started(self, event: RunStarted) -> None:
        """The model is built, and the run is about to train."""

    def phase_started(self, phase: Phase, trainable: int) -> None:
        """Other layer groups train from now on, with `trainable` parameters."""

    def step_done(self, event: StepDone) -> None:
        """An optimizer step has ended; on a GPU not each is reported."""

    def epoch_done(self, event: EpochDone) -> None:
        """An epoch has ended, or the evaluation of the first weights, which is epoch 0."""

    def note(self, text: str) -> None:
        """One line for the user."""
