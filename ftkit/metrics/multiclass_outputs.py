"""Outputs for images that have one class each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Self

from ftkit.metrics.outputs import BLOCK, Outputs, PairsOf
from ftkit.parts.metric import Array

if TYPE_CHECKING:
    from torch import Tensor

TOP = 5
"""Classes that top-5 accuracy counts; with no more classes than that it is always 1."""


@dataclass(frozen=True, eq=False)
class _Statistics:
    """Values of each image, of one pass over the logits.

    Attributes:
        predicted: The likeliest class, int64 `(n,)`; -1 where the outputs are not finite.
        in_top: Whether the true class is among the `TOP` likeliest, bool `(n,)`; False with no more classes.
        losses: Cross entropy, float64 `(n,)`.
        confidence: Probability of the likeliest class, float64 `(n,)`.
        shift, spread: The largest logit, and the logarithm of the sum of the exponentials of all logits less the
            largest; float64 `(n,)`. The log-softmax is the logit less both.
    """

    predicted: Array
    in_top: Array
    losses: Array
    confidence: Array
    shift: Array
    spread: Array


class MulticlassOutputs(Outputs):
    """Outputs where each image has one class. Probabilities are the softmax of the logits."""

    task = "multiclass"

    @cached_property
    def _statistics(self) -> _Statistics:
        import torch

        logits, labels = self.logits, torch.from_numpy(self.targets)
        size = max(1, BLOCK // logits.shape[1])
        found = [torch.empty(len(labels), dtype=kind) for kind in (torch.int64, torch.bool, *[torch.float64] * 4)]
        for start in range(0, len(labels), size):
            part = slice(start, start + size)
            for column, values in zip(found, _block(logits[part], labels[part]), strict=True):
                column[part] = values
        return _Statistics(*(column.numpy() for column in found))

    @property
    def scores(self) -> Array:
        scores: Array = self.logits.double().softmax(dim=1).numpy()
        return scores

    @property
    def predicted(self) -> Array:
        return self._statistics.predicted

    @property
    def in_top(self) -> Array:
        """Whether the true class is among the five likeliest, bool `(n,)`; False with no more than five classes."""
        return self._statistics.in_top

    @property
    def losses(self) -> Array:
        """Cross entropy of each image, float64 `(n,)`."""
        return self._statistics.losses

    @property
    def confidence(self) -> Array:
        """Probability of the predicted class, float64 `(n,)`."""
        return self._statistics.confidence

    @property
    def finite(self) -> Array:
        return self.predicted >= 0

    @property
    def right(self) -> Array:
        right: Array = self.predicted == self.targets
        return right

    def pairs(self, of: PairsOf) -> tuple[Array, Array]:
        import numpy as np

        if of == "targets":
            return np.arange(len(self)), self.targets
        images = np.flatnonzero(self.right if of == "right" else self.finite)
        return images, self.predicted[images]

    def columns(self) -> Iterator[tuple[int, Array]]:
        """Each class index with its log-probability for all images, float64 `(n,)`."""
        import torch

        logits, count = self.logits, len(self.classes)
        size = max(1, BLOCK // len(self))
        shift, spread = (torch.from_numpy(each) for each in (self._statistics.shift, self._statistics.spread))
        for start in range(0, count, size):
            block = torch.empty(min(size, count - start), len(shift), dtype=torch.float64)
            yield from enumerate(block.copy_(logits[:, start : start + size].T).sub_(shift).sub_(spread).numpy(), start)

    def take(self, indices: Array) -> Self:
        known, taken = self._statistics, super().take(indices)
        taken._statistics = _Statistics(*(getattr(known, field.name)[indices] for field in fields(_Statistics)))
        return taken


def _block(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """The fields of `_Statistics`. In single precision, high probabilities that differ would tie at 1."""
    import torch

    # NumPy's argmax takes a fifteenth of the time of torch's; both give NaN the first place.
    predicted = torch.from_numpy(logits.numpy().argmax(axis=1))
    shift, own = (logits.gather(1, each[:, None])[:, 0].double() for each in (predicted, labels))
    values = logits.double().sub_(shift[:, None]) if logits.dtype != torch.float64 else logits - shift[:, None]
    spread = values.exp_().sum(dim=1).log()
    losses = spread - (own - shift)
    in_top = torch.zeros_like(labels, dtype=torch.bool)
    if logits.shape[1] > TOP:
        in_top = (logits.topk(TOP).indices == labels[:, None]).any(dim=1)
    finite = shift.isfinite()
    return predicted.where(finite, -1), in_top & finite, losses, (-spread).exp(), shift, spread
