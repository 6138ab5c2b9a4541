"""What metrics need of a model's outputs, image by image: a few numbers each, however many classes there are.

Outputs of 20,000 images for 20,000 classes take 1.6 GB as they come. Everything here goes over them in blocks of rows
or columns, so that little is held beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ftkit.metrics.finite_outputs import usable_rows
from ftkit.metrics.names import TOP

BLOCK = 2**18
"""Outputs that are looked at together; 2 MB in double precision, which stay in the processor's cache."""
FEW = 12
"""Images of a class up to which each is compared with all others, which is quicker than to sort them then."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Rows:
    """A split's images, each by what a model puts out for it.

    Attributes:
        classes: How many there are.
        labels: int64 `(n,)`.
        predicted: The likeliest class, int64 `(n,)`; -1 where the outputs aren't finite, which is never right.
        in_top: Whether the true class is among the five likeliest, bool `(n,)`; all False with no more than five.
        loss: Cross entropy, float64 `(n,)`.
        confidence: Probability of the likeliest class, float64 `(n,)`.
        shift, spread: Of the softmax: the largest output, and the logarithm of the sum of the exponentials of all less
            the largest; float64 `(n,)`.
    """

    classes: int
    labels: Array
    predicted: Array
    in_top: Array
    loss: Array
    confidence: Array
    shift: Array
    spread: Array

    @property
    def right(self) -> Array:
        """Bool `(n,)`."""
        return np.asarray(self.predicted == self.labels)

    @property
    def unusable(self) -> int:
        """Images whose outputs aren't finite."""
        return int((self.predicted < 0).sum())


def rows_of(logits: Tensor, labels: Tensor) -> Rows:
    """What `(n, classes)` logits say of images with `(n,)` labels; n is 1 or more."""
    images, size = len(labels), max(1, BLOCK // logits.shape[1])
    kinds = (torch.int64, torch.bool, *[torch.float64] * 4)
    found = [torch.empty(images, dtype=kind) for kind in kinds]
    for start in range(0, images, size):
        part = slice(start, start + size)
        for column, values in zip(found, _block(logits[part], labels[part]), strict=True):
            column[part] = values
    return Rows(logits.shape[1], labels.numpy(), *(column.numpy() for column in found))


def _block(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Columns of `Rows` after `labels`. In single precision, what a sure model ranks apart would tie at 1."""
    # NumPy's argmax takes a fifteenth of the time of torch's; it too gives NaN the first place.
    predicted = torch.from_numpy(logits.numpy().argmax(axis=1))
    shift, own = (logits.gather(1, each[:, None])[:, 0].double() for each in (predicted, labels))
    values = logits.double().sub_(shift[:, None]) if logits.dtype != torch.float64 else logits - shift[:, None]
    spread = values.exp_().sum(dim=1).log()
    loss = spread - (own - shift)
    in_top = torch.zeros_like(labels, dtype=torch.bool)
    if logits.shape[1] > TOP:
        in_top = (logits.topk(TOP).indices == labels[:, None]).any(dim=1)
    usable = usable_rows(shift[:, None])
    return predicted.where(usable, -1), in_top & usable, loss, (-spread).exp(), shift, spread


def areas(logits: Tensor, rows: Rows) -> Array:
    """Area under the ROC curve of each class against all others, float64 `(classes,)`.

    It is how often an image of the class has a higher probability of it than another image, ties counting half. NaN
    for a class with no image or all of them.
    """
    found = np.full(rows.classes, np.nan)
    images = len(rows.labels)
    members = members_of(rows.labels, rows.classes)
    for label, scores in columns(logits, rows):
        positive = scores[members[label]]
        pairs = len(positive) * (images - len(positive))
        if pairs:
            # Pairs within the class are in it once in either order, and each image with itself as a tie.
            found[label] = (_above(positive, scores) - len(positive) ** 2 / 2) / pairs
    return found


def members_of(labels: Array, classes: int) -> list[Array]:
    """Positions of each class's images."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.searchsorted(labels[order], np.arange(1, classes)))


def columns(logits: Tensor, rows: Rows) -> Iterator[tuple[int, Array]]:
    """Each class with the logarithm of its probability for all images, float64 `(n,)`."""
    size = max(1, BLOCK // len(rows.labels))
    shift, spread = torch.from_numpy(rows.shift), torch.from_numpy(rows.spread)
    for start in range(0, rows.classes, size):
        block = torch.empty(min(size, rows.classes - start), len(shift), dtype=torch.float64)
        yield from enumerate(block.copy_(logits[:, start : start + size].T).sub_(shift).sub_(spread).numpy(), start)


def _above(positive: Array, scores: Array) -> float:
    """Over each of `positive`: how many of `scores` are below it, and half of those that are equal."""
    if len(positive) <= FEW:
        below, equal = (sum(np.count_nonzero(way(scores, one)) for one in positive) for way in (np.less, np.equal))
        return below + equal / 2
    ranked = np.sort(scores)
    left, right = (int(ranked.searchsorted(positive, side).sum()) for side in ("left", "right"))
    return (left + right) / 2
