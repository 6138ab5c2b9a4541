"""Confident learning: which given labels are probably wrong, from the scores of a model that wasn't trained on them.

Northcutt, Jiang and Chuang: Confident learning: estimating uncertainty in dataset labels (JAIR 2021). A class counts as
present in an image where its score is at least the mean score of that class over the images with that label. The counts
of given label and confidently predicted class are the confident joint; those off its diagonal estimate the number of
label errors. That many images with the lowest score of their own label (self-confidence) are reported, of those whose
likeliest class is another one. On CIFAR-10 images with 5 % planted errors, this has a higher precision and recall than
selecting by the margin between the two classes for each entry of the joint (docs/data-quality.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftkit.parts.label_sets import Label

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class LabelErrors:
    """Images whose label is probably wrong, the least probable labels first.

    Attributes:
        rows: Their positions, `(m,)`.
        suggested: The class with the highest score, `(m,)`.
        joint: The estimated joint distribution of given labels (rows) and true labels, `(classes, classes)`; its sum
            is 1.
    """

    rows: Integers
    suggested: Integers
    joint: Floats

    @property
    def rate(self) -> float:
        """The estimated share of wrong labels."""
        return float(1 - np.trace(self.joint))


def find_label_errors(scores: Floats, labels: Integers, has_scores: Flags) -> LabelErrors:
    """Probable label errors of images with one class each.

    Args:
        scores: The probability of each class, `(n, classes)`, of models that weren't trained on the image.
        labels: `(n,)`.
        has_scores: Which images have scores for all classes, `(n,)`; the others are left out.
    """
    places = np.flatnonzero(has_scores)
    scores, labels = scores[places], labels[places]
    counts = confident_joint(scores, labels)
    own, best = scores[np.arange(len(labels)), labels], scores.argmax(axis=1)
    wrong = np.flatnonzero(best != labels)
    order = wrong[np.argsort(own[wrong], kind="stable")][: int(counts.sum() - np.trace(counts))]
    return LabelErrors(places[order], best[order], _joint(counts, labels))


def confident_joint(scores: Floats, labels: Integers) -> Integers:
    """Number of images by given label and confidently predicted class, `(classes, classes)`."""
    classes = scores.shape[1]
    own = scores[np.arange(len(labels)), labels]
    totals, counts = np.bincount(labels, own, classes), np.bincount(labels, minlength=classes)
    # A class without an image is never confidently predicted. The small number allows for rounding of equal scores.
    thresholds = np.where(counts > 0, totals / np.maximum(counts, 1), np.inf) - 1e-6
    masked = np.where(scores >= thresholds, scores, -1.0)
    predicted = masked.argmax(axis=1)
    confident = masked[np.arange(len(labels)), predicted] >= 0
    found = np.bincount(labels[confident] * classes + predicted[confident], minlength=classes**2)
    return found.reshape(classes, classes)


def _joint(counts: Integers, labels: Integers) -> Floats:
    """The confident joint, with each row scaled to the share of the label; a row without counts is on the diagonal."""
    filled = counts.astype(np.float64)
    empty = np.flatnonzero(filled.sum(axis=1) == 0)
    filled[empty, empty] = 1
    shares = np.bincount(labels, minlength=len(counts)) / max(len(labels), 1)
    found: Floats = filled / filled.sum(axis=1, keepdims=True) * shares[:, None]
    return found


@dataclass(frozen=True)
class Suspects:
    """Images whose label, or one of whose labels, is probably wrong.

    Attributes:
        rows: Their positions, `(m,)`, the least probable label first.
        suggested: The suggested label of each of them.
        own: The probability of the given label of every image, `(n,)`; with several labels per image, that of the
            least probable one. NaN for images without scores.
        joint: See `LabelErrors`; None with several labels per image.
    """

    rows: Integers
    suggested: Sequence[Label]
    own: Floats
    joint: Floats | None


def find_suspects(scores: Floats, targets: NDArray[Any], has_scores: Flags, exclusive: bool) -> Suspects:
    """The probable label errors of images with one class each, or with several labels.

    Args:
        scores: The probability of each class, `(n, classes)`, of models that weren't trained on the image.
        targets: The label of each image, `(n,)`, or which labels it has, `(n, classes)`.
        has_scores: Which images have scores, `(n,)`.
        exclusive: Whether each image has one class.
    """
    if exclusive:
        own = np.where(has_scores, scores[np.arange(len(targets)), targets], np.nan)
        errors = find_label_errors(scores, targets, has_scores)
        return Suspects(errors.rows, errors.suggested.tolist(), own, errors.joint)
    given = targets.astype(np.bool_)
    wrong, own = np.zeros_like(given), np.full(given.shape, np.nan, dtype=np.float32)
    wrong[has_scores], own[has_scores] = find_label_set_errors(scores[has_scores], given[has_scores])
    least = np.where(wrong, own, np.inf).min(axis=1)
    rows = np.flatnonzero(wrong.any(axis=1))
    rows = rows[np.argsort(least[rows], kind="stable")]
    suggested = [tuple(np.flatnonzero(given[row] ^ wrong[row]).tolist()) for row in rows]
    return Suspects(rows, suggested, own.min(axis=1), None)


def find_label_set_errors(scores: Floats, targets: Flags) -> tuple[Flags, Floats]:
    """Probable errors of images with several labels each: confident learning for each class against its absence.

    Args:
        scores: The probability of each class, `(n, classes)`.
        targets: Which labels are given, `(n, classes)`.

    Returns:
        Which labels are probably missing or wrong, `(n, classes)`; and the score of each given label or of its absence.
    """
    own = np.where(targets, scores, 1 - scores)
    errors = np.zeros_like(targets)
    for label in range(targets.shape[1]):
        given = targets[:, label].astype(np.int64)
        if not 1 < given.sum() < len(given) - 1:
            continue
        both = np.stack([1 - scores[:, label], scores[:, label]], axis=1)
        found = find_label_errors(both, given, np.ones(len(given), dtype=np.bool_))
        errors[found.rows, label] = True
    return errors, own


def overlapping_classes(joint: Floats) -> list[tuple[int, int, float]]:
    """Pairs of classes with the share of images that are labelled as one and are of the other, the largest first."""
    both = joint + joint.T
    one, other = np.triu_indices(len(joint), 1)
    shares = both[one, other]
    order = np.argsort(-shares, kind="stable")
    order = order[shares[order] > 0]
    return [(int(one[i]), int(other[i]), float(shares[i])) for i in order]
