"""What callbacks see of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class RunContext:
    """A run at the moment of an event.

    Attributes:
        folder: The run folder.
        plan: What `ftkit plan --json` prints.
        network: The whole network; its parameters may be changed in place by `on_step_end`, in every process alike.
        learning_rates: The rate of each parameter that trains, by name, in the step that has ended.
        epoch: Whole epochs done.
        step: Optimizer steps done in the epoch under way.
        rank: Index of the process.
        world: Number of processes.
        device: Where the network computes.
        note: Prints one line for the user, in the main process.
    """

    folder: Path
    plan: Mapping[str, Any]
    network: nn.Module
    learning_rates: Mapping[str, float]
    epoch: int
    step: int
    rank: int
    world: int
    device: torch.device
    note: Callable[[str], None]

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, which alone writes files."""
        return self.rank == 0
