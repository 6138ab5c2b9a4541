"""Checks of splits against each other: the distributions of sizes and levels, and groups that are in two splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ftkit.data_quality.checks.findings import Finding, ImageRef, Item, image_ref
from ftkit.data_quality.measured_splits import MeasuredSplits
from ftkit.data_quality.sample_groups import SampleGroups
from ftkit.errors import plural

DISTANCE = 0.15
"""Kolmogorov-Smirnov distance from which two distributions count as different."""
LEVEL = 0.001
"""The p-value below which a difference isn't chance, divided by the number of tests (Bonferroni)."""


def check_split_distributions(measured: MeasuredSplits) -> Iterator[Finding]:
    """Two-sample Kolmogorov-Smirnov tests of what the images of two splits look like."""
    from scipy.stats import ks_2samp

    columns = _columns(measured)
    rows = {name: np.flatnonzero(measured.readable[part]) + part.start for name, _, part in measured.data.rows()}
    pairs = [pair for pair in combinations(rows, 2) if all(len(rows[name]) > 1 for name in pair)]
    for one, other in pairs:
        different = []
        for name, values in columns.items():
            first, second = values[rows[one]], values[rows[other]]
            found = ks_2samp(first, second, method="asymp")
            if found.statistic >= DISTANCE and found.pvalue * len(columns) * len(pairs) < LEVEL:
                medians = f"median {np.median(first):.3g} in {one}, {np.median(second):.3g} in {other}"
                different.append((float(found.statistic), f"{name}: distance {found.statistic:.2f}, {medians}"))
        if different:
            texts = [text for _, text in sorted(different, reverse=True)]
            message = f"the images of {one} and {other} differ in {plural(len(texts), 'measure')}: {texts[0]}"
            yield Finding("split-shift", "warning", message, tuple(Item((), text) for text in texts), "measure")


def check_group_leakage(measured: MeasuredSplits, groups: SampleGroups) -> Iterator[Finding]:
    """Groups with images in two or more splits, and images without a group."""
    if groups.missing:
        lost = np.flatnonzero(groups.numbers < 0)
        items = tuple(Item((image_ref(measured, int(row)),)) for row in lost)
        yield Finding("no-group", "warning", f"{plural(len(lost), 'image')} without a group", items)
    splits_of: dict[int, dict[str, NDArray[np.int64]]] = defaultdict(dict)
    for name, _, part in measured.data.rows():
        numbers = groups.numbers[part]
        order = np.argsort(numbers, kind="stable")
        starts = np.flatnonzero(np.diff(numbers[order], prepend=-2))
        for rows in np.split(order, starts[1:]) if len(order) else []:
            splits_of[int(numbers[rows[0]])][name] = rows + part.start
    leaked = {number: parts for number, parts in splits_of.items() if number >= 0 and len(parts) > 1}
    if leaked:
        order_of = sorted(leaked, key=lambda number: -sum(map(len, leaked[number].values())))
        items = tuple(Item(_images(measured, leaked[n]), _detail(groups.names[n], leaked[n])) for n in order_of)
        count = plural(len(leaked), "group is", "groups are")
        message = f"{count} in two or more splits, of {len(groups.names):,} groups"
        yield Finding("group-leakage", "error", message, items, "group")


def _columns(measured: MeasuredSplits) -> Mapping[str, NDArray[np.floating]]:
    width, height, size = measured.sizes.T.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(height > 0, width / height, 0)
        per_pixel = np.where(width > 0, size / (width * height), 0)
    red, _, blue = measured.means.T
    return {
        "width": width,
        "height": height,
        "aspect ratio": ratio,
        "bytes per pixel": per_pixel,
        "brightness": measured.brightness,
        "contrast": measured.contrast,
        "red less blue": red - blue,
    }


def _images(measured: MeasuredSplits, parts: Mapping[str, NDArray[np.int64]]) -> tuple[ImageRef, ...]:
    return tuple(image_ref(measured, int(row)) for rows in parts.values() for row in rows)


def _detail(name: str, parts: Mapping[str, NDArray[np.int64]]) -> str:
    return f"group {name}: " + ", ".join(f"{len(rows):,} in {split}" for split, rows in parts.items())
