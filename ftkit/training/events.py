"""What a run tells those who watch it. The engine never prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkit.planning.run_plan import Plan
from ftkit.strategies.schedule import Phase


@dataclass(frozen=True)
class Start:
    """A run is about to train.

    Attributes:
        loaded: What came of the pretrained weights, one line; empty where there were none.
        resumed: Whole epochs done before, None for a new run.
    """

    plan: Plan
    run: Path
    device: str
    precision: str
    workers: int
    loaded: str
    resumed: int | None


@dataclass(frozen=True)
class StepDone:
    """An optimizer step is done; `loss` is the mean over the epoch so far, `step` counts from 1."""

    epoch: int
    step: int
    steps: int
    loss: float
    rates: Mapping[str, float]
    images_per_second: float


@dataclass(frozen=True)
class EpochDone:
    """An epoch is trained and validated; `record` is the line in `metrics.jsonl`."""

    record: Mapping[str, Any]
    is_best: bool


class Listener:
    """Is called with a run's events, in the process that trains; a method does nothing until a subclass overrides it.

    What it raises ends the run. Give it to `ftkit.train` or `ftkit.resume`.
    """

    def started(self, event: Start) -> None:
        """The model is built and the data found."""

    def phase_started(self, phase: Phase, trainable: int) -> None:
        """Other groups train from now on; `trainable` is the number of their parameters."""

    def step_done(self, event: StepDone) -> None:
        """Called once a step."""

    def epoch_done(self, event: EpochDone) -> None:
        """Called once an epoch, and once before training where the first weights are judged."""

    def note(self, text: str) -> None:
        """Something that a person should know."""
