"""The view of a run that callbacks get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ftkit.files.tensor_files import load_tensors
from ftkit.runs.model_card import WEIGHTS

if TYPE_CHECKING:
    from ftkit.training.session import Session


class RunContext:
    """A run, as callbacks see it; its properties have their values at the event.

    Attributes:
        learning_rates: Learning rates of the layer groups that train, in the last step; empty before the first.
        trainable: Names of the layer groups that train; empty before the first phase.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.learning_rates: Mapping[str, float] = {}
        self.trainable: frozenset[str] = frozenset()

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self._session.run.path

    @cached_property
    def plan(self) -> Mapping[str, Any]:
        """What `ftkit plan --json` prints."""
        return self._session.plan.to_json()

    @property
    def network(self) -> nn.Module:
        """The network. `on_step_end` may change its parameters in place, in every process alike."""
        return self._session.network

    @property
    def layer_groups(self) -> Mapping[str, Sequence[str]]:
        """Names of parameters by layer group, from the input to the head."""
        return self._session.built.members

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self._session.progress.epoch

    @property
    def step(self) -> int:
        """Optimizer steps done in the epoch under way."""
        return self._session.progress.step

    @property
    def steps_per_epoch(self) -> int:
        return self._session.plan.batches.steps

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self._session.device

    @property
    def rank(self) -> int:
        """Index of this process, from 0."""
        return self._session.rank

    @property
    def world(self) -> int:
        """Number of processes."""
        return self._session.world

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, which alone writes files."""
        return self._session.is_main

    def first_weights(self) -> Mapping[str, Tensor]:
        """The parameters as they were before the first step of the run, by name, on the CPU, read from the disk."""
        return load_tensors(self._session.run.first / WEIGHTS)

    def note(self, text: str) -> None:
        """Print one line for the user; where several processes call it, the main one's is printed."""
        if self.is_main:
            self._session.listener.note(text)

    def stop(self) -> None:
        """End the run after this epoch, as early stopping does; all processes must call it."""
        self._session.progress.stopped = True
