"""From losses to weights: what adds gradients up over batches and processes, and moves the weights by them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn


class Stepper(Protocol):
    """The optimizer steps of one phase. A step's gradients are added up batch by batch, then applied or dropped."""

    def adding(self, last: bool) -> AbstractContextManager[None]:
        """The context of the forward and backward pass of a batch, the last of its step or not."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss; over processes they are averaged."""

    def apply(self) -> bool:
        """Take the step, and forget the gradients; False where it was left out, since they aren't finite."""

    def drop(self) -> None:
        """Forget the gradients."""

    def close(self) -> None:
        """Leave the optimizer as it is between phases; all processes must."""


class PlainStepper:
    """Those of the optimizer itself, whole in each process."""

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, clip: float | None
    ) -> None:
        self._accelerator = accelerator
        self._model = model
        self._optimizer = optimizer
        self._clip = clip

    def adding(self, last: bool) -> AbstractContextManager[None]:
        """As in `Stepper`: processes exchange gradients with the last batch alone."""
        return nullcontext() if last else cast(AbstractContextManager[None], self._accelerator.no_sync(self._model))

    def backward(self, loss: Tensor) -> None:
        """As in `Stepper`."""
        self._accelerator.backward(loss)

    def apply(self) -> bool:
        """As in `Stepper`: whatever the gradients are, the weights take them, or fp16's scaler sees to it."""
        if self._clip is not None:
            # It takes the loss scale of fp16 off first, and here the gradient is whole: all batches, all processes.
            self._accelerator.clip_grad_norm_(self._model.parameters(), self._clip)
        self._optimizer.step()
        self.drop()
        return True

    def drop(self) -> None:
        """As in `Stepper`."""
        self._optimizer.zero_grad(set_to_none=True)

    def close(self) -> None:
        """As in `Stepper`."""
