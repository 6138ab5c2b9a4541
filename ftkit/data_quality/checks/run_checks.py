"""All checks of a dataset, and whether their findings fail it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ftkit.data_quality.checks.class_checks import check_classes
from ftkit.data_quality.checks.duplicate_checks import check_duplicates
from ftkit.data_quality.checks.file_checks import check_files, check_skipped
from ftkit.data_quality.checks.findings import SEVERITIES, Finding, Severity
from ftkit.data_quality.checks.split_checks import check_group_leakage, check_split_distributions
from ftkit.data_quality.duplicate_groups import DuplicateGroups
from ftkit.data_quality.measured_splits import MeasuredSplits
from ftkit.data_quality.sample_groups import SampleGroups
from ftkit.errors import unknown

CHECKS = (
    "unreadable", "wrong-extension", "damaged-profile", "one-color", "unusual-mode", "small-image", "aspect-ratio",
    "orientation", "color-profile", "missing-class", "small-class", "class-imbalance", "class-proportions",
    "duplicate-across-splits", "duplicate-labels", "duplicate", "near-duplicate-across-splits",
    "near-duplicate-labels", "near-duplicate", "split-shift", "no-group", "group-leakage", "reader-notes",
)  # fmt: skip
"""Names of the checks, as `--ignore` takes them."""


@dataclass(frozen=True)
class CheckedData:
    """The findings on a dataset, the most severe first.

    Attributes:
        images: Number of images by split.
    """

    source: str
    images: dict[str, int]
    classes: int
    findings: tuple[Finding, ...]

    def fails(self, level: Severity | None) -> bool:
        """Whether there is a finding at or above a severity; None for never."""
        return level is not None and any(
            SEVERITIES.index(finding.severity) <= SEVERITIES.index(level) for finding in self.findings
        )

    def to_json(self) -> dict[str, Any]:
        found = [finding.to_json() for finding in self.findings]
        return {"data": self.source, "images": self.images, "classes": self.classes, "findings": found}


def require_checks(names: Sequence[str], flag: str) -> None:
    """Refuse names that aren't checks.

    Raises:
        RequestError: Names the first one.
    """
    for name in names:
        if name not in CHECKS:
            raise unknown("check", name, CHECKS, flag)


def check_data(measured: MeasuredSplits, groups: SampleGroups | None, ignored: Collection[str] = ()) -> CheckedData:
    """Run all checks on the measurements of a dataset.

    Args:
        groups: The group of each image, to check that no group is in two splits.
        ignored: Names of checks whose findings are left out.
    """
    found = chain(
        check_files(measured),
        check_classes(measured),
        check_duplicates(measured, DuplicateGroups.of(measured.scan)),
        check_split_distributions(measured),
        () if groups is None else check_group_leakage(measured, groups),
        check_skipped(measured),
    )
    kept = [finding for finding in found if finding.check not in ignored]
    kept.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    splits = measured.data.splits
    counts = {str(name): len(split) for name, split in splits.present()}
    return CheckedData(measured.data.source, counts, len(splits.classes), tuple(kept))
