"""Random changes of training images: of one image, and of a batch with its targets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftkit.errors import RequestError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class ImageTransform(ABC):
    """Changes one training image at random. Subclasses are frozen dataclasses; fields are options.

    It runs in the worker processes, after the random crop and before flips and changes of colour, and must be
    picklable.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    @abstractmethod
    def apply(self, image: Tensor) -> Tensor:
        """The changed image.

        Random numbers come from torch's default generator. It is seeded for each image by its position in the run, so
        a resumed run draws the same numbers.

        Args:
            image: uint8 `(channels, size, size)` with 1 or 3 channels; not to be changed in place.

        Returns:
            uint8 of the same shape.
        """


@dataclass(frozen=True)
class BatchTransform(ABC):
    """Changes a batch and its targets at random. Subclasses are frozen dataclasses; fields are options.

    Each batch gets one of the run's batch transforms, chosen at random. It runs on the device, in each process on that
    process's part of the batch. Frozen layers are computed in each epoch then: activations of mixed images can't be
    cached.

    Attributes:
        probability: The probability of changing a batch for which this transform is chosen.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    probability: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise RequestError(f"probability is {self.probability}", "give a number from 0 to 1")

    @abstractmethod
    def apply(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The changed images and targets, of the same shapes.

        Args:
            images: float32 `(b, channels, size, size)`, normalised, on the device of the run; not to be changed in
                place.
            targets: A probability for each class, float32 `(b, classes)`, on the same device.
            generator: A generator on the CPU, seeded by the position in the run; the only source of random numbers.
        """
