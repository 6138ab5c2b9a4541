"""Outputs for images that have any number of labels each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Self

from ftkit.metrics.outputs import BLOCK, Outputs, PairsOf
from ftkit.parts.metric import Array

if TYPE_CHECKING:
    from torch import Tensor


class MultilabelOutputs(Outputs):
    """Outputs where each image has any number of labels. Probabilities are the sigmoid of the logits.

    Attributes:
        thresholds: The probability above which a class is predicted, for each class.
    """

    task = "multilabel"

    def __init__(
        self, logits: Tensor, targets: Tensor, classes: Sequence[str], thresholds: Sequence[float] | None = None
    ) -> None:
        super().__init__(logits, targets, classes)
        self.thresholds = tuple(thresholds or [0.5] * len(classes))

    @cached_property
    def _statistics(self) -> tuple[Array, Array]:
        """Losses float64 `(n,)` and predictions bool `(n, classes)`, of one pass over the logits."""
        import torch

        logits, targets = self.logits, torch.from_numpy(self.targets)
        size = max(1, BLOCK // logits.shape[1])
        least = torch.tensor(self.thresholds, dtype=torch.float64).logit()
        losses, predicted = torch.empty(len(self), dtype=torch.float64), torch.empty_like(targets)
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            values, own = logits[part].double(), targets[part]
            losses[part] = -torch.nn.functional.logsigmoid(values.where(own, -values)).mean(dim=1)
            predicted[part] = (values > least) & ~values.isnan().any(dim=1, keepdim=True)
        return losses.numpy(), predicted.numpy()

    @property
    def scores(self) -> Array:
        scores: Array = self.logits.double().sigmoid().numpy()
        return scores

    @property
    def predicted(self) -> Array:
        return self._statistics[1]

    @property
    def losses(self) -> Array:
        """Binary cross entropy of each image, the mean over its classes, float64 `(n,)`."""
        return self._statistics[0]

    @property
    def finite(self) -> Array:
        import numpy as np

        return ~np.isnan(self.losses)

    @property
    def right(self) -> Array:
        right: Array = (self.predicted == self.targets).all(axis=1) & self.finite
        return right

    def pairs(self, of: PairsOf) -> tuple[Array, Array]:
        chosen = self.targets if of == "targets" else self.predicted
        images, labels = (chosen & self.targets if of == "right" else chosen).nonzero()
        return images, labels

    def columns(self) -> Iterator[tuple[int, Array]]:
        """Each class index with its logit for all images, float64 `(n,)`."""
        logits, count = self.logits, len(self.classes)
        size = max(1, BLOCK // len(self))
        for start in range(0, count, size):
            yield from enumerate(logits[:, start : start + size].T.contiguous().double().numpy(), start)

    @cached_property
    def average_precision(self) -> Array:
        """Average precision of each class, float64 `(classes,)`; NaN for a class without an image.

        It is the mean, over the images of the class, of the precision among the images that score at least as high.
        """
        import numpy as np

        found = np.full(len(self.classes), np.nan)
        for label, scores in self.columns():
            positive = scores[self.members[label]]
            if len(positive):
                at_least = len(scores) - np.sort(scores).searchsorted(positive)
                right = len(positive) - np.sort(positive).searchsorted(positive)
                found[label] = (right / at_least).mean()
        return found

    def take(self, indices: Array) -> Self:
        losses, predicted = self._statistics
        taken = super().take(indices)
        taken._statistics = losses[indices], predicted[indices]
        return taken
