"""How far metrics would wander on other images of the same kind: the bootstrap.

A resample draws as many images as there are, with replacement, so it is a count for each image. All metrics
are written as sums over counted images, so that two thousand resamples are a few products of matrices. The
resamples follow from the seed and the number of images alone: models judged on the same images meet the same
resamples, and what differs between them is the models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ftkit.metrics.classification import BELOW_ONE, BINS, confidence_bins
from ftkit.metrics.names import TOP
from ftkit.metrics.outputs import Array, Rows, columns, members_of, rows_of

RESAMPLES = 2000
CONFIDENCE = 0.95
LEVEL = 0.05
"""Of p, from which on a difference is said to be within chance."""
RESAMPLED = ("macro_f1", "weighted_f1", "loss")
"""Metrics of one model that get an interval by resamples."""
MOST_RESAMPLED = 20_000
"""Images up to which they do; so many take a second."""
FEWEST = 6
"""Images that two models must differ on, all one way, for McNemar's p to be below 0.05."""
BLOCK = 2**22
"""Counts that are held at a time."""


@dataclass(frozen=True)
class Interval:
    """Where a metric lies, by the middle 95 % of the resamples; None where no resample has the metric."""

    low: float | None
    high: float | None


def resampled(
    logits: Tensor, labels: Tensor, metrics: Sequence[str], seed: int = 0, resamples: int = RESAMPLES
) -> Mapping[str, Array]:
    """Each metric's value on each resample, float64 `(resamples,)`; not a number where a resample lacks it.

    Args:
        logits: `(n, classes)`, of which each row has a finite softmax.
        labels: `(n,)`.
        metrics: Names in `ftkit.metrics.names.METRICS`.
    """
    rows = rows_of(logits, labels)
    judges = {name: _JUDGES[name](logits, rows) for name in metrics}
    found: dict[str, list[Array]] = {name: [] for name in metrics}
    for counts in _counts(len(labels), seed, resamples):
        for name, judge in judges.items():
            found[name].append(judge(counts))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def interval(values: Array) -> Interval:
    """The middle 95 % of the values that are numbers."""
    there = values[np.isfinite(values)]
    if not len(there):
        return Interval(None, None)
    low, high = np.quantile(there, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Interval(float(low), float(high))


def intervals(logits: Tensor, labels: Tensor) -> dict[str, Interval]:
    """Where a model's metrics lie, by name: of rates by Wilson's score, which holds for few images and at 0 and 1 too.

    Of the others it is the middle of the resamples, where there are `MOST_RESAMPLED` images or fewer; of more it would
    take long, and be narrow.

    Args:
        logits: `(n, classes)`, of which each row has a finite softmax.
        labels: `(n,)`.
    """
    rows = rows_of(logits, labels)
    found = {"accuracy": wilson(int(rows.right.sum()), len(labels))}
    if rows.classes > TOP:
        found["top5"] = wilson(int(rows.in_top.sum()), len(labels))
    if len(labels) <= MOST_RESAMPLED:
        found |= {name: interval(values) for name, values in resampled(logits, labels, RESAMPLED).items()}
    return found


def wilson(right: int, images: int) -> Interval:
    """Wilson's interval for a rate of `right` out of `images`."""
    from scipy.stats import binomtest

    found = binomtest(right, images).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(found.low), float(found.high))


def smallest_difference(images: int) -> int:
    """How many images more one of two models must have right for a difference that isn't chance, p below 0.05.

    Args:
        images: That exactly one of the two has right. Of fewer than six none would do, and six is the answer.
    """
    from scipy.stats import binomtest

    images = max(images, FEWEST)
    more = (more for more in range(images % 2, images + 1, 2) if more)
    return next(n for n in more if binomtest((images + n) // 2, images).pvalue < LEVEL)


def mcnemar(first: Array, second: Array) -> tuple[int, int, float]:
    """Whether two models are right on different numbers of the same images: McNemar's exact test.

    Args:
        first, second: Whether each model is right on each image, bool `(n,)`.

    Returns:
        Images that only the first has right, that only the second has, and the two-sided p-value: how
        likely so uneven a count is, or a more uneven one, if either were right as often.
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if not only_first + only_second:
        return 0, 0, 1.0
    return only_first, only_second, float(binomtest(only_first, only_first + only_second).pvalue)


def _counts(images: int, seed: int, resamples: int) -> Iterator[Array]:
    """Blocks of resamples: how often each image is drawn, float64 `(rows, images)`."""
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // images)
    for start in range(0, resamples, rows):
        drawn = rng.integers(images, size=(min(rows, resamples - start), images))
        offsets = images * np.arange(len(drawn))[:, None]
        yield np.bincount((drawn + offsets).ravel(), minlength=drawn.size).reshape(drawn.shape).astype(float)


Judge = Callable[[Array], Array]
"""From counts `(rows, images)`, each row adding up to the number of images, to a metric for each row."""


def _judge_of(metric: str, logits: Tensor, labels: Tensor) -> Judge:
    return _JUDGES[metric](logits, rows_of(logits, labels))


def _mean(values: Array) -> Judge:
    return lambda counts: counts @ values / len(values)


def _f1(rows: Rows, weighted: bool) -> Judge:
    # Classes without an image and without a prediction add nothing to either mean.
    seen, places = np.unique(np.concatenate([rows.labels, rows.predicted]), return_inverse=True)
    labels, guesses = places[: len(rows.labels)], places[len(rows.labels) :]
    true, guessed, right = (
        _sums(group, len(seen), values) for group, values in ((labels, None), (guesses, None), (labels, rows.right))
    )

    def judge(counts: Array) -> Array:
        support = counts @ true
        f1 = 2 * (counts @ right) / np.maximum(support + counts @ guessed, 1)
        if weighted:
            return np.asarray((f1 * support).sum(axis=1) / len(labels))
        return np.asarray(f1.sum(axis=1) / (support > 0).sum(axis=1))

    return judge


def _calibration_error(rows: Rows) -> Judge:
    gaps = _sums(confidence_bins(rows), BINS, rows.confidence.clip(max=BELOW_ONE) - rows.right)
    return lambda counts: np.asarray(np.abs(counts @ gaps).sum(axis=1) / len(rows.labels))


def _auroc(logits: Tensor, rows: Rows) -> Judge:
    """Mean area over the classes; a resample that misses a class has none, which of many classes most do."""
    members = members_of(rows.labels, rows.classes)

    def judge(counts: Array) -> Array:
        found = np.full(len(counts), np.nan)
        whole = np.all([(counts[:, each] > 0).any(axis=1) for each in members], axis=0)
        if whole.any():
            areas = [_area(scores, rows.labels == label)(counts[whole]) for label, scores in columns(logits, rows)]
            found[whole] = np.mean(areas, axis=0)
        return found

    return judge


def _area(scores: Array, positive: Array) -> Judge:
    """Area under one class's ROC curve: how often an image of it scores above another, ties counting half."""
    _, ranks = np.unique(scores, return_inverse=True)
    levels = int(ranks.max()) + 1
    yes, no = _sums(ranks, levels, positive), _sums(ranks, levels, ~positive)

    def area(counts: Array) -> Array:
        above, below = counts @ yes, counts @ no
        pairs = above.sum(axis=1) * below.sum(axis=1)
        won = (above * (below.cumsum(axis=1) - below / 2)).sum(axis=1)
        return np.asarray(np.where(pairs > 0, won / np.maximum(pairs, 1), np.nan))

    return area


def _sums(groups: Array, size: int, values: Array | None = None) -> Any:
    """A sparse matrix that, multiplied by counts, adds each image's value up in its group."""
    from scipy.sparse import csr_array

    values = np.ones(len(groups)) if values is None else values.astype(float)
    return csr_array((values, (np.arange(len(groups)), groups)), shape=(len(groups), size))


_JUDGES: Mapping[str, Callable[[Tensor, Rows], Judge]] = {
    "accuracy": lambda _, rows: _mean(rows.right.astype(float)),
    "top5": lambda _, rows: _mean(rows.in_top.astype(float)),
    "macro_f1": lambda _, rows: _f1(rows, weighted=False),
    "weighted_f1": lambda _, rows: _f1(rows, weighted=True),
    "auroc": _auroc,
    "calibration_error": lambda _, rows: _calibration_error(rows),
    "loss": lambda _, rows: _mean(rows.loss),
}
