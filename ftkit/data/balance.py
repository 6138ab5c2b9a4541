"""What each image counts where classes differ in size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def class_weights(labels: Sequence[int], classes: int) -> tuple[float, ...]:
    """The weight of an image by its class, so that each class that has images counts the same in all.

    It is n / (k x count) for n images of k classes, which makes the mean over the images 1: the loss keeps
    its size and the learning rate its meaning. A class without an image has 0.
    """
    counts = Counter(labels)
    share = len(labels) / len(counts)
    return tuple(share / counts[c] if c in counts else 0.0 for c in range(classes))


def balance_notes(balance: str, labels: Sequence[int]) -> tuple[str, ...]:
    """That balancing has nothing to do, where classes are of one size; data may well become so by a setting."""
    if balance == "none" or len(set(Counter(labels).values())) > 1:
        return ()
    if balance == "weights":
        return ("balance weights changes nothing: all classes have the same number of training images",)
    return (
        "balance sampler has nothing to balance, since all classes have the same number of training images: "
        "it only leaves some images out of an epoch and shows others twice",
    )
