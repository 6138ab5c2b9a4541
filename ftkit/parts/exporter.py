"""An exporter: a trained model in another format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ftkit.transforms.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class TrainedModel:
    """A trained model as an exporter gets it.

    Attributes:
        network: The network in eval mode, float32, on the CPU; takes images `(b, channels, size, size)` to logits
            `(b, classes)`.
        classes: Class names in the order of the logits.
        preprocessing: How an image becomes what the network takes.
    """

    network: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing


class Exporter(ABC):
    """Writes a model in another format, and reads back what it wrote. Subclasses are frozen dataclasses.

    `ftkit export` computes logits with what was written, for batches of several sizes, and compares them with those of
    the model. If they differ by more than `tolerance`, it writes nothing.

    Attributes:
        packages: Names of the modules that the exporter imports and that may be missing. `ftkit export` checks them
            first.
        install: What `pip install` takes to bring them.
        tolerance: Largest difference of a logit between the model and the exported file; where the largest logit is
            over 1, as a fraction of it.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    packages: ClassVar[Sequence[str]] = ()
    install: ClassVar[str] = ""
    tolerance: ClassVar[float] = 1e-4

    @abstractmethod
    def export(self, model: TrainedModel, images: Tensor, folder: Path) -> Sequence[Path]:
        """Write the model into an empty folder, and nothing outside of it.

        Args:
            images: Two images to trace with, float32 `(2, channels, size, size)`, normalised.

        Returns:
            The files or folders that were written.
        """

    @abstractmethod
    def load(self, folder: Path) -> Callable[[Tensor], Tensor]:
        """Read the exported model back.

        Returns:
            A function from images, float32 `(b, channels, size, size)` for any `b`, to logits `(b, classes)`.
        """
