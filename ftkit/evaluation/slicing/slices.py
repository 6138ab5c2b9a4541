"""The slices of a split on which a metric is worse than on the rest, with control of the false discoveries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ftkit.evaluation.slicing.groupings import Grouping
from ftkit.metrics.bootstrap import MOST_RESAMPLED, Interval, interval, resampled, wilson
from ftkit.metrics.outputs import Outputs
from ftkit.metrics.report import metric_value
from ftkit.parts.metric import Array, MeanMetric, Metric

LEVEL = 0.05
"""The largest expected share of false discoveries among the slices that are called worse."""
MINIMUM = 20
"""Fewest images of a slice that is tested."""


@dataclass(frozen=True)
class Slice:
    """A group of images.

    Attributes:
        by, group: The property, and the group.
        images: Number of images.
        value, interval: The metric on these images, with its 95 % interval; None where it has no value.
        rest: The metric on all other images.
        p: Of a one-sided test whether the metric is worse than on the rest; None without one.
        adjusted: The p-value after Benjamini and Hochberg's correction for all slices that are tested.
        examples: Positions of typical images.
    """

    by: str
    group: str
    images: int
    value: float | None
    interval: Interval
    rest: float | None
    p: float | None = None
    adjusted: float | None = None
    examples: tuple[int, ...] = ()

    @property
    def is_worse(self) -> bool:
        """Whether the metric is worse than on the rest by more than chance."""
        return self.adjusted is not None and self.adjusted < LEVEL


@dataclass(frozen=True)
class Slices:
    """The slices of a split.

    Attributes:
        metric: Name of the metric.
        minimum: Fewest images of a slice.
        found: First those that are worse by more than chance, then the others; the worst value first in both.
        small: Number of groups with fewer images, or with fewer other images, by property.
        undivided: Properties without a slice: all images have one value, or each group is small.
    """

    metric: str
    minimum: int
    found: tuple[Slice, ...]
    small: dict[str, int]
    undivided: tuple[str, ...]


def find_slices(
    outputs: Outputs, name: str, metric: Metric, groupings: Sequence[Grouping], minimum: int = MINIMUM
) -> Slices:
    """The metric on each group of images, compared with all other images.

    A rate is tested by Fisher's exact test and has Wilson's interval; another mean over images is tested by Welch's t
    test; any other metric by the bootstrap's standard errors. These have bootstrap intervals.

    Args:
        name: Of the metric.
        groupings: Each with a group for every image of `outputs`.
    """
    from scipy.stats import false_discovery_control

    found, small, undivided = list[Slice](), dict[str, int](), list[str]()
    for grouping in groupings:
        counts = np.bincount(grouping.members[grouping.members >= 0], minlength=len(grouping.groups))
        large = (counts >= minimum) & (len(outputs) - counts >= minimum)
        if len(large) > 1 and not large.all():
            small[grouping.name] = int(len(large) - large.sum())
        if not large.any():
            undivided.append(grouping.name)
        found += [_slice(outputs, metric, grouping, group) for group in np.flatnonzero(large).tolist()]
    tested = [place for place, one in enumerate(found) if one.p is not None]
    if tested:
        adjusted = false_discovery_control([found[place].p for place in tested])
        for place, p in zip(tested, adjusted, strict=True):
            found[place] = replace(found[place], adjusted=float(p))
    sign = 1 if metric.lower_is_better else -1
    ordered = sorted(found, key=lambda one: (not one.is_worse, math.inf if one.value is None else -sign * one.value))
    return Slices(name, minimum, tuple(ordered), small, tuple(undivided))


def _slice(outputs: Outputs, metric: Metric, grouping: Grouping, place: int) -> Slice:
    inside = grouping.members == place
    own, others = outputs.take(np.flatnonzero(inside)), outputs.take(np.flatnonzero(~inside))
    (value, _), (rest, _) = metric_value(metric, own), metric_value(metric, others)
    bounds, p = Interval(None, None), None
    if value is not None and rest is not None:
        bounds, p = _tested(metric, own, others, value, rest)
    examples = grouping.examples.get(place, ())
    return Slice(grouping.name, grouping.groups[place], len(own), value, bounds, rest, p, examples=examples)


def _tested(metric: Metric, own: Outputs, others: Outputs, value: float, rest: float) -> tuple[Interval, float | None]:
    """The interval of a metric on some images, and the p-value for it being worse than on others."""
    if isinstance(metric, MeanMetric):
        ours, theirs = metric.per_image(own), metric.per_image(others)
        if ours.dtype == np.bool_:
            return wilson(int(ours.sum()), len(ours)), _fisher(ours, theirs, metric.lower_is_better)
        bounds = interval(resampled(own, {"": metric})[""]) if len(own) <= MOST_RESAMPLED else Interval(None, None)
        return bounds, _welch(ours, theirs, metric.lower_is_better)
    if len(own) > MOST_RESAMPLED:
        return Interval(None, None), None
    values = resampled(own, {"": metric})[""]
    if len(others) > MOST_RESAMPLED:
        others = others.take(np.random.default_rng(0).permutation(len(others))[:MOST_RESAMPLED])
    error = math.hypot(np.nanstd(values), np.nanstd(resampled(others, {"": metric})[""]))
    worse = (value - rest) if metric.lower_is_better else (rest - value)
    return interval(values), _normal(worse, error)


def _fisher(ours: Array, theirs: Array, lower_is_better: bool) -> float:
    from scipy.stats import fisher_exact

    table = [[int(one.sum()), int(len(one) - one.sum())] for one in (ours, theirs)]
    return float(fisher_exact(table, alternative="greater" if lower_is_better else "less").pvalue)


def _welch(ours: Array, theirs: Array, lower_is_better: bool) -> float | None:
    from scipy.stats import ttest_ind

    found = ttest_ind(ours, theirs, equal_var=False, alternative="greater" if lower_is_better else "less")
    return float(found.pvalue) if np.isfinite(found.pvalue) else None


def _normal(worse: float, error: float) -> float | None:
    from scipy.stats import norm

    return float(norm.sf(worse / error)) if error > 0 and math.isfinite(error) else None
