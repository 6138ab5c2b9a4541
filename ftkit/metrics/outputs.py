"""A model's outputs for a split, with the intermediate values that metrics share, each computed once.

Logits of 20,000 images for 20,000 classes take 1.6 GB. They are processed in blocks of rows or columns, so that the
intermediate values take little memory beside them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from ftkit.parts.metric import Array

if TYPE_CHECKING:
    from torch import Tensor

PairsOf = Literal["targets", "predicted", "right"]
BLOCK = 2**18
"""Logits of a block; 2 MB in double precision, which stay in the processor's cache."""


class Outputs(ABC):
    """Logits and targets of the `n` images of a split, on the CPU.

    Attributes:
        task: Name of the task that the targets belong to.
        classes: Names of the classes, in label order.
        targets: Class indices, int64 `(n,)`, or for several labels per image, bool `(n, classes)`.
    """

    task: ClassVar[str]

    def __init__(self, logits: Tensor, targets: Tensor, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.targets: Array = targets.numpy()
        self._logits = logits
        self._indices: Array | None = None

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def logits(self) -> Tensor:
        """Float `(n, classes)`."""
        return self._logits if self._indices is None else self._logits[self._indices]

    @property
    @abstractmethod
    def scores(self) -> Array:
        """The probability of each class, float64 `(n, classes)`. It is computed anew at each access."""

    @property
    @abstractmethod
    def predicted(self) -> Array:
        """Predictions of the shape and type of `targets`; where the outputs are not finite, -1 or no class."""

    @property
    @abstractmethod
    def right(self) -> Array:
        """Whether the prediction of each image is entirely right, bool `(n,)`."""

    @property
    @abstractmethod
    def losses(self) -> Array:
        """The loss of each image, float64 `(n,)`."""

    @property
    @abstractmethod
    def finite(self) -> Array:
        """Whether the outputs of each image give finite probabilities, bool `(n,)`."""

    @abstractmethod
    def pairs(self, of: PairsOf) -> tuple[Array, Array]:
        """Positions of images and their class indices, int64 `(m,)` each, by image.

        Args:
            of: `targets`, `predicted`, or `right` for the predictions that are targets.
        """

    @abstractmethod
    def columns(self) -> Iterator[tuple[int, Array]]:
        """Each class index with a score of all images that ranks them as the probability does, float64 `(n,)`."""

    def take(self, indices: Array) -> Self:
        """The outputs of some images, int64 `(m,)`, which may be repeated."""
        taken = copy(self)
        for name in list(vars(taken)):
            if isinstance(getattr(type(self), name, None), cached_property):
                del taken.__dict__[name]
        taken.targets = self.targets[indices]
        taken._indices = indices if self._indices is None else self._indices[indices]
        return taken

    @cached_property
    def support(self) -> Array:
        """Number of images of each class, int64 `(classes,)`."""
        return self._counts("targets")

    @cached_property
    def predicted_counts(self) -> Array:
        """Number of images that each class is predicted for, int64 `(classes,)`."""
        return self._counts("predicted")

    @cached_property
    def right_counts(self) -> Array:
        """Number of images that each class is rightly predicted for, int64 `(classes,)`."""
        return self._counts("right")

    @cached_property
    def f1(self) -> Array:
        """F1 of each class, float64 `(classes,)`; 0 for a class without an image and without a prediction."""
        f1: Array = 2 * self.right_counts / (self.support + self.predicted_counts).clip(min=1)
        return f1

    @cached_property
    def members(self) -> list[Array]:
        """Positions of the images of each class."""
        import numpy as np

        images, labels = self.pairs("targets")
        order = np.argsort(labels, kind="stable")
        return np.split(images[order], np.searchsorted(labels[order], np.arange(1, len(self.classes))))

    def _counts(self, of: PairsOf) -> Array:
        import numpy as np

        return np.bincount(self.pairs(of)[1], minlength=len(self.classes))
