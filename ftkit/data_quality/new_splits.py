"""New training, validation and test splits: stratified, by time, and with images that belong together in one split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from ftkit.data.sampling import require_two_of_each, stratified_split
from ftkit.data_quality.dataset_request import LoadedData
from ftkit.errors import RequestError
from ftkit.parts.dataset import SplitName
from ftkit.parts.label_sets import Label, Labels, LabelSets, count_classes, label_set

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class NewSplits:
    """The new split of each image, in the order of `LoadedData.samples`.

    Attributes:
        names: The splits.
        numbers: The split of each row, `(n,)`.
        units: Number of groups of images that were kept together, of two or more images.
        absent: Classes by split that have no image in it.
    """

    names: tuple[SplitName, ...]
    numbers: Integers
    units: int
    absent: Mapping[str, tuple[str, ...]]

    def counts(self) -> dict[str, int]:
        return {name: int((self.numbers == number).sum()) for number, name in enumerate(self.names)}


def split_data(
    data: LoadedData,
    fractions: Mapping[SplitName, float],
    together: Sequence[Integers],
    times: NDArray[np.float64] | None,
    seed: int,
) -> NewSplits:
    """Divide all images of a dataset anew.

    Args:
        fractions: The fraction of the images of each split, train first; their sum is 1.
        together: Groupings: rows with the same number in one of them are in the same split; -1 is no group.
        times: Times of the images, for splits in the order of time: the first images are for training, the last for
            the last split. Images of a group have the time of the first of them. None for stratified splits.
        seed: Chooses the images.

    Raises:
        RequestError: A class has a single image or group, or there are too few.
    """
    names = tuple(fractions)
    units, labels = _units(data.count, together), _pooled(data)
    shares = np.array([fractions[name] for name in names])
    if times is not None:
        numbers = _by_time(units, times, shares)
    elif len(np.unique(units)) == data.count:
        numbers = _stratified(labels, shares, seed, data.splits.classes)
    else:
        numbers = _grouped(labels, len(data.splits.classes), units, shares, seed)
    sizes = np.bincount(numbers, minlength=len(names))
    if not sizes.all():
        empty = names[int(sizes.argmin())]
        raise RequestError(f"the {empty} split would be empty", "change the fractions, or keep fewer images together")
    counts = {name: count_classes(_taken(labels, np.flatnonzero(numbers == i))) for i, name in enumerate(names)}
    absent = {
        str(name): tuple(data.splits.classes[label] for label in sorted(count_classes(labels)) if not own[label])
        for name, own in counts.items()
    }
    together_sizes = np.unique(units, return_counts=True)[1]
    return NewSplits(names, numbers, int((together_sizes > 1).sum()), {k: v for k, v in absent.items() if v})


def _units(count: int, together: Sequence[Integers]) -> Integers:
    """The number of the set of images of each row that are connected by any grouping."""
    ones, twos = [np.arange(count)], [np.arange(count)]
    for numbers in together:
        rows = np.flatnonzero(numbers >= 0)
        _, first, inverse = np.unique(numbers[rows], return_index=True, return_inverse=True)
        ones.append(rows)
        twos.append(rows[first[inverse]])
    one, two = np.concatenate(ones), np.concatenate(twos)
    links = coo_array((np.ones(len(one), dtype=np.bool_), (one, two)), shape=(count, count))
    found: Integers = connected_components(links, directed=False)[1].astype(np.int64)
    return found


def _pooled(data: LoadedData) -> Labels:
    if not data.splits.multilabel:
        return [label for label in data.labels() if isinstance(label, int)]
    return LabelSets((label_set(label) for label in data.labels()), len(data.splits.classes))


def _taken(labels: Labels, rows: Integers) -> Labels:
    return labels.take(rows.tolist()) if isinstance(labels, LabelSets) else [labels[row] for row in rows]


def _stratified(labels: Labels, shares: NDArray[np.float64], seed: int, classes: Sequence[str]) -> Integers:
    """One split after the other is taken from the rest, as training holds out its validation images."""
    require_two_of_each(labels, classes)
    numbers = np.zeros(len(labels), dtype=np.int64)
    rest = np.arange(len(labels))
    for number in range(len(shares) - 1, 0, -1):
        fraction = shares[number] / shares[: number + 1].sum()
        kept, taken = stratified_split(_taken(labels, rest), float(fraction), seed, classes)
        numbers[rest[taken]] = number
        rest = rest[kept]
    return numbers


def _grouped(labels: Labels, classes: int, units: Integers, shares: NDArray[np.float64], seed: int) -> Integers:
    """Large units first, each into the split that needs its classes most.

    It is iterative stratification (see `data.multilabel_sampling`) of whole units: the need of a split for a class is
    the part of its share of the class that it still lacks.
    """
    table = _class_table(labels, classes, units)
    totals = np.maximum(table.sum(axis=0), 1)
    missing = shares[:, None] * table.sum(axis=0)[None]
    sizes = np.bincount(units)
    room = shares * len(units)
    order = np.random.default_rng(seed).permutation(table.shape[0])
    order = order[np.argsort(-sizes[order], kind="stable")]
    side = np.zeros(table.shape[0], dtype=np.int64)
    for unit in order:
        part = slice(table.indptr[unit], table.indptr[unit + 1])
        own, counts = table.indices[part], table.data[part]
        needs = (missing[:, own] / totals[own] * counts).sum(axis=1)
        chosen = int(np.lexsort((-room, -needs.round(12)))[0])
        side[unit] = chosen
        missing[chosen, own] -= counts
        room[chosen] -= sizes[unit]
    return side[units]


def _class_table(labels: Labels, classes: int, units: Integers) -> csr_array:
    """Number of images of each unit by class, sparse `(units, classes + 1)`; the last is for images without a label."""
    rows, columns = [], []
    every: Sequence[Label] = labels
    for unit, label in zip(units.tolist(), every, strict=True):
        for one in label_set(label) or (classes,):
            rows.append(unit)
            columns.append(one)
    shape = (int(units.max()) + 1, classes + 1)
    return csr_array(coo_array((np.ones(len(rows)), (rows, columns)), shape=shape))


def _by_time(units: Integers, times: NDArray[np.float64], shares: NDArray[np.float64]) -> Integers:
    """Units in the order of their first image, cut where the fractions are reached."""
    first = np.full(int(units.max()) + 1, np.inf)
    np.minimum.at(first, units, times)
    sizes = np.bincount(units)
    order = np.argsort(first, kind="stable")
    # The middle of a unit decides, so that the sizes are as near to the fractions as possible.
    middles = sizes[order].cumsum() - sizes[order] / 2
    side = np.empty(len(order), dtype=np.int64)
    side[order] = np.searchsorted(shares.cumsum()[:-1] * len(units), middles, side="right")
    return side[units]
