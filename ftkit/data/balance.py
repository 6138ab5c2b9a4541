"""Class weights for imbalanced data."""

from __future__ import annotations

from ftkit.parts.label_sets import Labels, LabelSets, count_classes


def class_weights(labels: Labels, classes: int) -> tuple[float, ...]:
    """The weight of a label by class: n / (k x count) for n labels of k classes.

    All classes then have the same total weight, and the mean weight over the labels is 1, so the scale of the loss
    doesn't change. A class without images has weight 0.
    """
    counts = count_classes(labels)
    mean_count = counts.total() / len(counts)
    return tuple(mean_count / counts[c] if c in counts else 0.0 for c in range(classes))


def sampling_weights(labels: Labels, classes: int) -> list[float]:
    """The weight of each image for sampling: the class weight of its rarest class, and 1 without a label."""
    weights = class_weights(labels, classes)
    if isinstance(labels, LabelSets):
        return [max((weights[label] for label in one), default=1.0) for one in labels]
    return [weights[label] for label in labels]


def balance_notes(balance: str, labels: Labels) -> tuple[str, ...]:
    """A note if balancing has no effect because all classes have the same number of images."""
    if balance == "none" or len(set(count_classes(labels).values())) > 1:
        return ()
    if balance == "weights":
        return ("balance weights has no effect: all classes have the same number of training images",)
    return (
        "balance sampler has no benefit: all classes have the same number of training images, and sampling with "
        "replacement omits some images in each epoch and repeats others",
    )
