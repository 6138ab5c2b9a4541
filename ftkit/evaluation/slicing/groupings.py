"""Groups of images: by a value, by ranges of a number, by clusters of features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ftkit.parts.metric import Array

RANGES = 4
"""Ranges of a number, with about equally many images each."""
FEWEST_NUMBERS = 10
"""Different numbers in a column from which it is divided into ranges; with fewer, each number is a group."""
MOST_CLUSTERS, PER_CLUSTER = 20, 50
"""Most clusters, and images per cluster where there are fewer images."""
FITTED = 50_000
"""Most images that clusters are fitted on."""
EXAMPLES = 3


@dataclass(frozen=True, eq=False)
class Grouping:
    """Groups of the images of a split, by one property.

    Attributes:
        name: Of the property.
        groups: Names of the groups.
        members: The group of each image, int64 `(n,)`; -1 for none.
        examples: Positions of typical images by group, where the name of a group doesn't say what it is.
    """

    name: str
    groups: tuple[str, ...]
    members: Array
    examples: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


def by_value(name: str, values: Sequence[str]) -> Grouping:
    """A group for each value, or ranges where the values are many different numbers. An empty value is no group."""
    numbers = _numbers(values)
    if numbers is not None and len(np.unique(numbers[np.isfinite(numbers)])) > FEWEST_NUMBERS:
        return by_range(name, numbers)
    known = {value: place for place, value in enumerate(sorted({value for value in values if value}))}
    return Grouping(name, tuple(known), np.array([known.get(value, -1) for value in values], dtype=np.int64))


def _numbers(values: Sequence[str]) -> Array | None:
    """The values as numbers, NaN for empty ones; None where one is no number."""
    try:
        return np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        return None


def by_range(name: str, values: Array, text: Callable[[float], str] = "{:.4g}".format) -> Grouping:
    """Ranges of a number with about equally many images; equal numbers are in one range.

    Args:
        values: float `(n,)`; NaN is in no range.
        text: Writes a bound.
    """
    there = values[np.isfinite(values)]
    if not len(there):
        return Grouping(name, (), np.full(len(values), -1))
    bounds = np.unique(np.quantile(there, np.linspace(0, 1, RANGES + 1)[1:-1], method="higher"))
    bounds = bounds[bounds > there.min()]
    members = np.where(np.isfinite(values), np.searchsorted(bounds, values, side="right"), -1)
    # The bounds that are shown are those of the images in the group.
    groups = []
    for place in range(len(bounds) + 1):
        own = there[np.searchsorted(bounds, there, side="right") == place]
        low, high = text(float(own.min())), text(float(own.max()))
        groups.append(low if low == high else f"{low} to {high}")
    return Grouping(name, tuple(groups), members.astype(np.int64))


def by_cluster(name: str, features: Array) -> Grouping:
    """Clusters by k-means of features that are divided by their norm.

    Args:
        features: float32 `(n, features)`.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    count = min(MOST_CLUSTERS, len(features) // PER_CLUSTER)
    if count < 2:
        return Grouping(name, (), np.full(len(features), -1))
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    scaled = (features / np.maximum(norms, np.finfo(np.float32).tiny)).astype(np.float32)
    chosen = np.random.default_rng(0).permutation(len(scaled))[:FITTED]
    with threadpool_limits(limits=1):
        model = KMeans(count, n_init=3, random_state=0).fit(scaled[chosen])
        members, distances = model.predict(scaled), model.transform(scaled).min(axis=1)
    order = np.argsort(distances, kind="stable")
    nearest = {place: tuple(order[members[order] == place][:EXAMPLES].tolist()) for place in range(count)}
    return Grouping(name, tuple(str(place + 1) for place in range(count)), members.astype(np.int64), nearest)
