"""Checks for copies: across splits, with different labels, and within a split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ftkit.data_quality.checks.findings import Finding, Item, Severity, image_ref
from ftkit.data_quality.duplicate_groups import DuplicateGroups, members
from ftkit.data_quality.measured_splits import MeasuredSplits
from ftkit.errors import plural

Rows = NDArray[np.int64]


def check_duplicates(measured: MeasuredSplits, groups: DuplicateGroups) -> Iterator[Finding]:
    """The findings on copies; a group may be in two of them, and identical images aren't reported as near ones too."""
    split_of = np.zeros(len(measured), dtype=np.int64)
    for number, (_, _, rows) in enumerate(measured.data.rows()):
        split_of[rows] = number
    numbers: dict[object, int] = {}
    labels = (numbers.setdefault(label, len(numbers)) for label in measured.data.labels())
    label_of = np.fromiter(labels, np.int64, len(measured))
    exact = members(groups.exact)
    near = [rows for rows in members(groups.near) if len(np.unique(groups.exact[rows])) > 1]
    yield from _kind(measured, ("", "identical images"), exact, split_of, label_of)
    yield from _kind(measured, ("near-", "near duplicates"), near, split_of, label_of)


def _kind(
    measured: MeasuredSplits, kind: tuple[str, str], found: Sequence[Rows], split_of: Rows, label_of: Rows
) -> Iterator[Finding]:
    """The findings on identical images or on near duplicates.

    Args:
        kind: Prefix of the names of the checks, and text of the messages.
        found: The rows of each group.
        split_of, label_of: A number for the split and for the label of each row.
    """
    prefix, text = kind
    across = [rows for rows in found if len(np.unique(split_of[rows])) > 1]
    unlike = [rows for rows in found if len(np.unique(label_of[rows])) > 1]
    reported = {int(rows[0]) for rows in (*across, *unlike)}
    within = [rows for rows in found if int(rows[0]) not in reported]
    severe: Severity = "warning" if prefix else "error"
    mild: Severity = "info" if prefix else "warning"
    if across:
        what = f"{text} in two or more splits, which makes metrics too optimistic"
        yield _finding(measured, f"{prefix}duplicate-across-splits", severe, what, across)
    if unlike:
        yield _finding(measured, f"{prefix}duplicate-labels", severe, f"{text} with different labels", unlike)
    if within:
        yield _finding(measured, f"{prefix}duplicate", mild, f"{text} in one split", within)


def _finding(measured: MeasuredSplits, check: str, severity: Severity, what: str, found: Sequence[Rows]) -> Finding:
    images = sum(map(len, found))
    message = f"{plural(len(found), 'group')} of {what} ({plural(images, 'image')})"
    largest = sorted(found, key=lambda rows: -len(rows))
    items = tuple(Item(tuple(image_ref(measured, int(row)) for row in rows)) for rows in largest)
    return Finding(check, severity, message, items, "group")
