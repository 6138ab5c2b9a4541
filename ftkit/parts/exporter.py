"""An exporter: a trained model in another format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor, nn


class Exporter(ABC):
    """Writes a model in another format, and computes with what it wrote. Subclasses are frozen dataclasses.

    `ftkit export` compares the outputs of both on the same images, and refuses a file that differs by more than
    `tolerance`.

    Attributes:
        tolerance: Largest absolute difference of a logit between the model and the exported file.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    tolerance: ClassVar[float] = 1e-4

    @abstractmethod
    def export(self, model: nn.Module, images: Tensor, folder: Path) -> tuple[Path, ...]:
        """Write the model into a folder that is there and empty.

        Args:
            model: In eval mode, float32, on the CPU; takes images to logits `(b, classes)`.
            images: float32 `(b, channels, size, size)`, normalised, to trace with.

        Returns:
            The files that were written.
        """

    @abstractmethod
    def logits(self, folder: Path, images: Tensor) -> Tensor:
        """The outputs of the exported model for the same kind of images, float32 `(b, classes)`."""
