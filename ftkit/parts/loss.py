"""A loss: what training minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


class Loss(ABC):
    """The training loss of each image. Subclasses are frozen dataclasses; fields are options of `loss`.

    Attributes:
        tasks: Names of the tasks that it is defined for: `multiclass`, `multilabel`.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    tasks: ClassVar[tuple[str, ...]] = ("multiclass",)

    @abstractmethod
    def per_image(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """The losses of a batch, float `(b,)`, before class weights and the mean over the images of a step.

        Args:
            logits: `(b, classes)`.
            targets: Class indices, int64 `(b,)`, or a probability for each class, float32 `(b, classes)`; the latter
                with batch transforms, and for multi-label targets.
            smoothing: The label-smoothing factor, 0 or more and less than 1.
        """

    def total(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """The sum of the losses of a batch, a scalar. Override it where the sum is cheaper to compute directly."""
        return self.per_image(logits, targets, smoothing).sum()

    def fitted(self, images: Sequence[int], total: int) -> Loss:
        """The loss for the training images; by default itself. It is called once, before training.

        Args:
            images: Number of training images of each class.
            total: Number of training images.
        """
        return self
