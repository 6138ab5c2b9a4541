"""Rejection: predictions of low confidence are replaced by `unknown`, and the others have a lower error rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ftkit.parts.metric import Array

CONFIDENCE = 0.95
"""Probability with which the error rate of the kept predictions is at most the requested one."""
POINTS = 200
TRIED = 20
"""Thresholds that a rule is chosen from."""


@dataclass(frozen=True)
class RiskPoint:
    """Predictions with a confidence of `threshold` or more: their share of all images, and their error rate."""

    threshold: float
    coverage: float
    risk: float


@dataclass(frozen=True)
class RiskCoverage:
    """The error rate of the most confident predictions, by their share of all images.

    Attributes:
        area: The mean error rate over all shares (AURC; Geifman and El-Yaniv, 2017).
        points: At most `POINTS`, by ascending coverage; the last one is for all images.
    """

    area: float
    points: tuple[RiskPoint, ...]

    def at(self, coverage: float) -> RiskPoint:
        """The point with the smallest coverage that is at least this."""
        return next(point for point in self.points if point.coverage >= coverage - 1e-9)


def risk_coverage(confidence: Array, right: Array) -> RiskCoverage:
    """The curve of images; those of equal confidence are kept or rejected together.

    Args:
        confidence: `(n,)`.
        right: Whether each prediction is right, bool `(n,)`.
    """
    counts, wrong, thresholds = _kept(confidence, right)
    images, risks = len(confidence), wrong / counts
    area = float((risks * np.diff(counts, prepend=0)).sum() / images)
    if len(counts) > POINTS:
        wanted = np.ceil(np.arange(1, POINTS + 1) / POINTS * images)
        chosen = np.unique(np.searchsorted(counts, wanted))
    else:
        chosen = np.arange(len(counts))
    points = zip(thresholds[chosen].tolist(), (counts[chosen] / images).tolist(), risks[chosen].tolist(), strict=True)
    return RiskCoverage(area, tuple(RiskPoint(*point) for point in points))


def _kept(confidence: Array, right: Array) -> tuple[Array, Array, Array]:
    """Number of images at or above each distinct confidence, how many are wrong, and that confidence, descending."""
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    return ends + 1, np.cumsum(~right[order])[ends], ranked[ends]


@dataclass(frozen=True)
class RejectionRule:
    """Keep predictions with a confidence of `threshold` or more.

    Attributes:
        bound: With a probability of 95 %, the error rate of the kept predictions is at most this.
        coverage, risk: On the calibration images.
    """

    threshold: float
    bound: float
    coverage: float
    risk: float


def rejection_rule(confidence: Array, right: Array, risk: float) -> RejectionRule | None:
    """The rule that keeps most predictions with an error bound of at most `risk`; None if there is none.

    The thresholds that keep 5 %, 10 % and so on of the calibration images are tried. Each error rate is bounded so
    that all bounds hold together with a probability of 95 % (as by Geifman and El-Yaniv, Selective Classification for
    Deep Neural Networks, 2017, who search by bisection). The rate on the calibration images themselves would be too
    good, since the threshold is chosen by it.

    Args:
        confidence, right: Of the calibration images, as in `risk_coverage`.
        risk: Between 0 and 1.
    """
    rules = [rule for rule in rejection_rules(confidence, right) if rule.bound <= risk]
    return max(rules, key=lambda rule: rule.coverage, default=None)


def rejection_rules(confidence: Array, right: Array) -> list[RejectionRule]:
    """The rules that are tried, with their bounds."""
    counts, wrong, thresholds = _kept(confidence, right)
    wanted = np.ceil(np.arange(1, TRIED + 1) / TRIED * len(confidence))
    chosen = np.unique(np.searchsorted(counts, wanted))
    bounds = upper_bound(wrong[chosen], counts[chosen], (1 - CONFIDENCE) / TRIED)
    columns = (thresholds[chosen], bounds, counts[chosen] / len(confidence), wrong[chosen] / counts[chosen])
    return [RejectionRule(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def upper_bound(wrong: Any, images: Any, level: float) -> Any:
    """The error rate with which at most `wrong` errors on `images` have a probability of `level` (Clopper-Pearson).

    Args:
        wrong, images: Numbers or arrays; the result has their shape.
    """
    from scipy.stats import beta

    bound = beta.ppf(1 - level, np.asarray(wrong) + 1.0, np.maximum(np.asarray(images) - wrong, 1e-9))
    return np.where(np.asarray(wrong) >= images, 1.0, bound)[()]
