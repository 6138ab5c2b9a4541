"""Optimizer steps: gradients accumulated over batches and processes, then applied to the weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn


class Stepper(Protocol):
    """The optimizer steps of one phase. Gradients are accumulated batch by batch, then applied or dropped."""

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Context of the forward and backward pass of a batch; `last` for the last one of a step."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of a loss; they are averaged over the processes."""

    def apply(self) -> bool:
        """Update the weights and drop the gradients; False where gradients aren't finite and the update was skipped."""

    def drop(self) -> None:
        """Drop the gradients."""

    def close(self) -> None:
        """Return the optimizer's state to the whole optimizer; all processes must call this."""


class PlainStepper:
    """Steps of the optimizer itself, whole in each process."""

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, clip: float | None
    ) -> None:
        self._accelerator = accelerator
        self._model = model
        self._optimizer = optimizer
        self._clip = clip

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """As in `Stepper`: processes exchange gradients with the last batch only."""
        return nullcontext() if last else cast(AbstractContextManager[None], self._accelerator.no_sync(self._model))

    def backward(self, loss: Tensor) -> None:
        """As in `Stepper`."""
        self._accelerator.backward(loss)

    def apply(self) -> bool:
        """As in `Stepper`: gradients that aren't finite are applied too, except by fp16's loss scaler."""
        if self._clip is not None:
            # It removes the loss scale of fp16 first. Here the gradient is complete: of all batches and processes.
            self._accelerator.clip_grad_norm_(self._model.parameters(), self._clip)
        self._optimizer.step()
        self.drop()
        return True

    def drop(self) -> None:
        """As in `Stepper`."""
        self._optimizer.zero_grad(set_to_none=True)

    def close(self) -> None:
        """As in `Stepper`."""
