"""A loss: what training minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


class Loss(ABC):
    """The loss of each image of a batch. Subclasses are frozen dataclasses; fields are options.

    Attributes:
        tasks: Names of the tasks that it is defined for.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    tasks: ClassVar[tuple[str, ...]] = ("multiclass",)

    @abstractmethod
    def per_image(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Losses of a batch, float32 `(b,)`, before weights of classes and the mean over images.

        Args:
            logits: `(b, classes)`.
            targets: Class indices, int64 `(b,)`, or a probability for each class, float32 `(b, classes)`.
            smoothing: The label-smoothing factor, from 0 to 1.
        """
