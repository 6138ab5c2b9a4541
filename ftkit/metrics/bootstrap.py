"""Confidence intervals of metrics, by the bootstrap.

A resample draws as many images as there are, with replacement, so it is a count for each image. The built-in metrics
are computed from sums over counted images, so that two thousand resamples are a few products of matrices. The resamples
depend on the seed and the number of images alone: models that are evaluated on the same images get the same resamples,
and differences between them are due to the models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ftkit.metrics.outputs import Outputs
from ftkit.parts.metric import Array, MeanMetric, Metric

RESAMPLES = 2000
CONFIDENCE = 0.95
MOST_RESAMPLED = 20_000
"""Images up to which `intervals` resamples; so many take a second."""
BLOCK = 2**22
"""Counts that are held at a time."""


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of a metric's values on the resamples; None where no resample has a value."""

    low: float | None
    high: float | None


def resampled(
    outputs: Outputs, metrics: Mapping[str, Metric], seed: int = 0, resamples: int = RESAMPLES
) -> Mapping[str, Array]:
    """Each metric's value on each resample, float64 `(resamples,)`, by name; NaN where it has no value.

    Args:
        outputs: Finite for each image.
    """
    resamplers = {name: metric.resampler(outputs) for name, metric in metrics.items()}
    found: dict[str, list[Array]] = {name: [] for name in metrics}
    for counts in _counts(len(outputs), seed, resamples):
        for name, resampler in resamplers.items():
            found[name].append(resampler(counts))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def interval(values: Array) -> Interval:
    """The middle 95 % of the finite values."""
    there = values[np.isfinite(values)]
    if not len(there):
        return Interval(None, None)
    low, high = np.quantile(there, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Interval(float(low), float(high))


def intervals(outputs: Outputs, metrics: Mapping[str, Metric]) -> dict[str, Interval]:
    """Intervals of one model's metrics, by name.

    Rates get Wilson's score interval, which holds for few images and at 0 and 1 too. The others are resampled, with
    `MOST_RESAMPLED` images or fewer; with more it would take long, and the intervals are narrow.

    Args:
        outputs: Finite for each image.
        metrics: Metrics that have a value for the outputs.
    """
    found, rest = dict[str, Interval](), dict[str, Metric]()
    for name, metric in metrics.items():
        counted = hits(metric, outputs)
        if counted is not None:
            found[name] = wilson(int(counted.sum()), len(outputs))
        elif metric.resampled:
            rest[name] = metric
    if rest and len(outputs) <= MOST_RESAMPLED:
        found |= {name: interval(values) for name, values in resampled(outputs, rest).items()}
    return found


def hits(metric: Metric, outputs: Outputs) -> Array | None:
    """Whether each image counts, bool `(n,)`, for a metric that is a rate of images; None for others."""
    values = metric.per_image(outputs) if isinstance(metric, MeanMetric) else None
    return values if values is not None and values.dtype == np.bool_ else None


def wilson(right: int, images: int) -> Interval:
    """Wilson's interval for a rate of `right` out of `images`."""
    from scipy.stats import binomtest

    found = binomtest(right, images).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(found.low), float(found.high))


def _counts(images: int, seed: int, resamples: int) -> Iterator[Array]:
    """Blocks of resamples: how often each image is drawn, float64 `(rows, images)`."""
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // images)
    for start in range(0, resamples, rows):
        drawn = rng.integers(images, size=(min(rows, resamples - start), images))
        offsets = images * np.arange(len(drawn))[:, None]
        yield np.bincount((drawn + offsets).ravel(), minlength=drawn.size).reshape(drawn.shape).astype(float)
