"""An image transform: a random change of one training image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
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
