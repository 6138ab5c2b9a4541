"""Checks of classes: imbalance, small and missing classes, and splits whose classes have other proportions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from ftkit.data_quality.checks.findings import Finding, Item, Severity
from ftkit.data_quality.measured_splits import MeasuredSplits
from ftkit.errors import plural
from ftkit.parts.dataset import SplitName
from ftkit.parts.task import class_counts

IMBALANCE = 10.0
"""Ratio of the largest class to the smallest one of the training split that is reported."""
FEW = 10
"""Training images below which a class is reported."""
ASSOCIATION = 0.2
"""Cramér's V from which the proportions of classes in two splits count as different."""
LEVEL = 0.001

Counts = dict[SplitName, NDArray[np.int64]]


def check_classes(measured: MeasuredSplits) -> Iterator[Finding]:
    """The findings on classes."""
    classes = measured.data.splits.classes
    counts: Counts = {
        name: np.array(class_counts(split.labels, len(classes)), dtype=np.int64)
        for name, split in measured.data.splits.present()
    }
    if not classes or not counts:
        return
    yield from _missing(classes, counts)
    yield from _small(classes, counts)
    yield from _imbalance(classes, counts)
    if not measured.data.splits.multilabel:
        yield from _proportions(classes, counts)


def _missing(classes: tuple[str, ...], counts: Counts) -> Iterator[Finding]:
    """Classes of one split that another one lacks: an error if it is the training split."""
    for name, own in counts.items() if len(counts) > 1 else ():
        others = np.stack([other for split, other in counts.items() if split != name]).sum(axis=0)
        absent = np.flatnonzero((own == 0) & (others > 0)).tolist()
        if absent:
            severity: Severity = "error" if name == "train" else "warning"
            texts = [f"class {classes[i]}: {plural(int(others[i]), 'image')} in other splits" for i in absent]
            message = f"the {name} split has no image of {plural(len(absent), 'class')}: {_few(classes, absent)}"
            yield Finding("missing-class", severity, message, tuple(Item((), text) for text in texts), "class")


def _small(classes: tuple[str, ...], counts: Counts) -> Iterator[Finding]:
    first = next(iter(counts))
    own = counts[first]
    small = sorted((label for label in range(len(classes)) if 0 < own[label] < FEW), key=lambda label: int(own[label]))
    if small:
        single = sum(int(own[label]) == 1 for label in small)
        alone = f", {single:,} of them only one, so that none can be held out" if single else ""
        items = tuple(Item((), f"class {classes[label]}: {plural(int(own[label]), 'image')}") for label in small)
        message = f"{plural(len(small), 'class has', 'classes have')} fewer than {FEW} {first} images{alone}: "
        yield Finding("small-class", "warning", message + _few(classes, small), items, "class")


def _imbalance(classes: tuple[str, ...], counts: Counts) -> Iterator[Finding]:
    first = next(iter(counts))
    own = counts[first]
    there = np.flatnonzero(own)
    if not len(there):
        return
    most, least = int(there[own[there].argmax()]), int(there[own[there].argmin()])
    ratio = own[most] / own[least]
    if ratio >= IMBALANCE:
        message = (
            f"the largest class of the {first} split, {classes[most]} ({own[most]:,}), has {ratio:.0f} times as many "
            f"images as the smallest, {classes[least]} ({own[least]:,}); --balance of ftkit train weights them"
        )
        order = there[np.argsort(-own[there], kind="stable")]
        items = tuple(Item((), f"class {classes[label]}: {plural(int(own[label]), 'image')}") for label in order)
        yield Finding("class-imbalance", "warning", message, items, "class")


def _proportions(classes: tuple[str, ...], counts: Counts) -> Iterator[Finding]:
    from scipy.stats import chi2_contingency

    for one, other in combinations(counts, 2):
        table = np.stack([counts[one], counts[other]])
        table = table[:, table.sum(axis=0) > 0]
        if table.shape[1] < 2 or not table.sum(axis=1).all():
            continue
        found = chi2_contingency(table, correction=False)
        association = sqrt(found.statistic / table.sum())
        if found.pvalue < LEVEL and association >= ASSOCIATION:
            shares = table / table.sum(axis=1, keepdims=True)
            names = [name for name, total in zip(classes, counts[one] + counts[other], strict=True) if total]
            order = np.argsort(-abs(shares[0] - shares[1]), kind="stable")
            texts = [f"class {names[i]}: {shares[0, i]:.1%} of {one}, {shares[1, i]:.1%} of {other}" for i in order]
            message = f"the proportions of classes differ between {one} and {other} (Cramér's V {association:.2f})"
            yield Finding(
                "class-proportions",
                "warning",
                f"{message}: {texts[0]}",
                tuple(Item((), text) for text in texts),
                "class",
            )


def _few(classes: tuple[str, ...], labels: list[int], most: int = 5) -> str:
    return ", ".join(classes[label] for label in labels[:most]) + (", ..." if len(labels) > most else "")
