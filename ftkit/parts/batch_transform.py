"""A batch transform: a random change of a batch of training images and its targets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class BatchTransform(ABC):
    """Changes a batch and its targets at random. Subclasses are frozen dataclasses; fields are options.

    It runs on the device, in each process on its own part of the batch. Epochs that use one compute the frozen layers
    anew: their activations for mixed images can't be cached.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    @abstractmethod
    def apply(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The changed images and targets, of the same shapes.

        Args:
            images: float32 `(b, channels, size, size)`, normalised, on the device of the run.
            targets: A probability for each class, float32 `(b, classes)`, on the same device.
            generator: On the CPU, seeded by the position in the run; the only source of random numbers.
        """
