"""Class weights for imbalanced data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def class_weights(labels: Sequence[int], classes: int) -> tuple[float, ...]:
    """The weight of an image by class: n / (k x count) for n images and k classes that have images.

    All classes then have the same total weight, and the mean weight over the images is 1, so the scale of the loss
    doesn't change. A class without images has weight 0.
    """
    counts = Counter(labels)
    mean_count = len(labels) / len(counts)
    return tuple(mean_count / counts[c] if c in counts else 0.0 for c in range(classes))


def balance_notes(balance: str, labels: Sequence[int]) -> tuple[str, ...]:
    """A note if balancing has no effect because all classes have the same number of images."""
    if balance == "none" or len(set(Counter(labels).values())) > 1:
        return ()
    if balance == "weights":
        return ("balance weights has no effect: all classes have the same number of training images",)
    return (
        "balance sampler has no benefit: all classes have the same number of training images, and sampling with "
        "replacement omits some images in each epoch and repeats others",
    )
