"""Conformity scores of classes, and the sets of classes that they give at a coverage.

The score of a class is low where it fits the outputs. A set has the classes whose score is at most a quantile of the
scores of true classes on calibration images. It then holds the true class of a new image of the same kind as often as
the coverage says, whatever the model (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005):

- `lac`: 1 less the probability of the class. The smallest sets on average (Sadinle, Lei and Wasserman, 2019).
- `aps`: the sum of the probabilities of all likelier classes. Larger sets for uncertain images and smaller ones for
  certain images (Romano, Sesia and Candès, 2020). Their scores have random numbers, without which the same image always
  has the same set; this is their score at an end of these numbers' range, by which no set is empty.
- `raps`: the same, plus 0.01 for each rank of the class beyond the fifth, which avoids very large sets (Angelopoulos,
  Bates, Malik and Jordan, 2021). With five classes or fewer it is `aps`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ftkit.parts.metric import Array
from ftkit.uncertainty.set_methods import SetMethod

FREE_RANKS, RANK_PENALTY = 5, 0.01


def class_scores(probabilities: Array, method: SetMethod) -> Array:
    """The score of each class of each image, float64 `(n, classes)`; args as in `true_scores`."""
    scores: Array = 1 - probabilities
    if method == "lac":
        return scores
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ordered = np.take_along_axis(probabilities, order, axis=1)
    ranked = ordered.cumsum(axis=1) - ordered
    if method == "raps":
        ranked += RANK_PENALTY * (np.arange(1, probabilities.shape[1] + 1) - FREE_RANKS).clip(min=0)
    scores = np.empty_like(ranked)
    np.put_along_axis(scores, order, ranked, axis=1)
    return scores


def true_scores(probabilities: Array, targets: Array, method: SetMethod) -> Array:
    """The score of the true class of each image, float64 `(n,)`.

    Args:
        probabilities: float64 `(n, classes)`.
        targets: Class indices `(n,)`.
    """
    scores: Array = class_scores(probabilities, method)[np.arange(len(targets)), targets]
    return scores


def quantile(scores: Array, coverage: float) -> float:
    """The score that a new true class has at most with a probability of `coverage`; infinite for too few scores.

    Args:
        scores: Of the calibration images `(n,)`, ascending.
    """
    place = math.ceil(round((len(scores) + 1) * coverage, 9))
    return float(scores[place - 1]) if place <= len(scores) else math.inf


def least_images(coverage: float) -> int:
    """The fewest calibration images with which `quantile` is finite."""
    return math.ceil(round(coverage / (1 - coverage), 9))


def set_members(probabilities: Array, method: SetMethod, limits: float | Array, empty: bool = False) -> Array:
    """Which classes are in the set of each image, bool `(n, classes)`.

    Args:
        limits: The largest score in a set: one, or one for each class.
        empty: Allow sets without a class, as images get for which each class is unlikely; otherwise such a set has the
            likeliest class, which can only raise the coverage.
    """
    members: Array = class_scores(probabilities, method) <= limits
    if not empty:
        members[np.arange(len(members)), probabilities.argmax(axis=1)] = True
    return members


def limits_by_class(scores: Sequence[Array], coverage: float) -> Array:
    """The quantile of each class's own scores, float64 `(classes,)`.

    Args:
        scores: Of the calibration images of each class, ascending.
    """
    return np.array([quantile(own, coverage) for own in scores])
