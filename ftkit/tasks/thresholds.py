"""The threshold of each class at which it is predicted."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ftkit.tasks.multilabel import THRESHOLD


def best_f1_thresholds(scores: Tensor, targets: Tensor) -> list[float]:
    """For each class the threshold with the best F1, halfway between two scores; of equals, the nearest to 0.5.

    Args:
        scores: The probability of each class, float `(n, classes)`, finite.
        targets: bool `(n, classes)`.

    Returns:
        0.5 for a class that no image or every image has.
    """
    columns = zip(scores.double().numpy().T, targets.numpy().T, strict=True)
    return [_best_f1_threshold(own, true) for own, true in columns]


def _best_f1_threshold(scores: np.ndarray, true: np.ndarray) -> float:
    positives = int(true.sum())
    if positives in (0, len(true)):
        return THRESHOLD
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(true[order])
    # Predicting the first k images is possible where a lower score follows, or after the last one.
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    f1 = 2 * hits[ends] / (ends + 1 + positives)
    following = np.append(ranked, 0.0)
    middles = (ranked[ends] + following[ends + 1]) / 2
    best = np.flatnonzero(f1 == f1.max())
    return float(middles[best[np.abs(middles[best] - THRESHOLD).argmin()]])
