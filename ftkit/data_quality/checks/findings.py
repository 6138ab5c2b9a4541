"""Findings of the checks of a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ftkit.data_quality.measured_splits import MeasuredSplits
from ftkit.parts.dataset import SplitName

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class ImageRef:
    """An image of the dataset.

    Attributes:
        name: Its name in the split: a path relative to the data, or an index.
        label: Its class names.
    """

    split: SplitName
    name: str
    label: str


@dataclass(frozen=True)
class Item:
    """One occurrence of a problem.

    Attributes:
        images: The images, if it is about images; copies of each other are one item.
        detail: The reason or the measured values.
    """

    images: tuple[ImageRef, ...]
    detail: str = ""


@dataclass(frozen=True)
class Finding:
    """A problem of the dataset.

    Attributes:
        check: Name of the check.
        message: What was found, with counts; one line.
        items: Each occurrence, the worst first.
        unit: What the items are, such as `image`.
    """

    check: str
    severity: Severity
    message: str
    items: tuple[Item, ...] = ()
    unit: str = "image"

    def to_json(self) -> dict[str, Any]:
        items = [{"images": [vars(image) for image in item.images], "detail": item.detail} for item in self.items]
        return {
            "check": self.check,
            "severity": self.severity,
            "message": self.message,
            "count": len(self.items),
            "items": items,
        }


CSV_COLUMNS = ("check", "severity", "item", "split", "image", "label", "detail")


def csv_rows(findings: Iterable[Finding]) -> Iterator[tuple[str, ...]]:
    """A row for each image of each item, and one for an item or a finding without images."""
    for finding in findings:
        for number, item in enumerate(finding.items or (Item((), finding.message),), 1):
            first = (finding.check, finding.severity, str(number))
            if not item.images:
                yield (*first, "", "", "", item.detail)
            for image in item.images:
                yield (*first, image.split, image.name, image.label, item.detail)


def image_ref(measured: MeasuredSplits, row: int) -> ImageRef:
    """The image of a row."""
    name, split, index = measured.data.place(row)
    return ImageRef(name, split.names[index], measured.data.label_text(split, index))


def image_items(measured: MeasuredSplits, rows: Iterable[int], details: Iterable[str]) -> tuple[Item, ...]:
    """An item for each of some rows."""
    return tuple(Item((image_ref(measured, int(row)),), text) for row, text in zip(rows, details, strict=True))
