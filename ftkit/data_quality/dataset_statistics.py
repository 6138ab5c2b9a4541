"""Statistics of a dataset: counts, sizes, formats and levels, overall and by split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftkit.data_quality.image_measures import OTHER_PROFILE
from ftkit.data_quality.measured_splits import MeasuredSplits
from ftkit.parts.task import class_counts

QUANTILES = {"min": 0.0, "p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}


@dataclass(frozen=True)
class Statistics:
    """Statistics of some images.

    Attributes:
        images: Their number, unreadable ones included.
        unreadable: Number that can't be read; these are in `images` and nothing else.
        distributions: Quantiles and mean of width, height, aspect ratio, bytes, brightness and contrast.
        modes, formats: Number of images by mode and by format.
        rotated: Number with an EXIF orientation other than upright.
        profiled: Number with a colour profile other than sRGB.
        total_bytes: Sum of the sizes of the files.
        mean, std: Of red, green and blue over all pixels, each image with the same weight, from 0 to 1; empty without a
            readable image.
    """

    images: int
    unreadable: int
    distributions: dict[str, dict[str, float]]
    modes: dict[str, int]
    formats: dict[str, int]
    rotated: int
    profiled: int
    total_bytes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class DataStatistics:
    """Statistics of a dataset.

    Attributes:
        counts: Number of images by split and class; with several labels per image, each counts.
        overall: Of all images.
        splits: By split.
    """

    source: str
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    overall: Statistics
    splits: dict[str, Statistics]

    def to_json(self) -> dict[str, Any]:
        counts = {name: dict(zip(self.classes, own, strict=True)) for name, own in self.counts.items()}
        splits = {name: vars(own) for name, own in self.splits.items()}
        return {"data": self.source, "counts": counts, "overall": vars(self.overall), "splits": splits}


def data_statistics(measured: MeasuredSplits) -> DataStatistics:
    """The statistics of measured images."""
    splits, classes = measured.data.splits, measured.data.splits.classes
    counts = {str(name): tuple(class_counts(split.labels, len(classes))) for name, split in splits.present()}
    own = {str(name): _statistics(measured, np.arange(len(measured))[rows]) for name, _, rows in measured.data.rows()}
    return DataStatistics(measured.data.source, classes, counts, _statistics(measured, np.arange(len(measured))), own)


def _statistics(measured: MeasuredSplits, rows: NDArray[np.int64]) -> Statistics:
    there = rows[measured.readable[rows]]
    width, height, size = measured.sizes[there].T
    columns = {
        "width": width,
        "height": height,
        "aspect ratio": width / np.maximum(height, 1),
        "bytes": size,
        "brightness": measured.brightness[there],
        "contrast": measured.contrast[there],
    }
    if not size.any():
        del columns["bytes"]  # The images aren't files.
    means = measured.means[there].astype(np.float64).mean(axis=0) if len(there) else np.empty(0)
    squares = measured.squares[there].astype(np.float64).mean(axis=0) if len(there) else np.empty(0)
    return Statistics(
        images=len(rows),
        unreadable=len(rows) - len(there),
        distributions={name: _quantiles(values) for name, values in columns.items() if len(there)},
        modes=_counted(measured.mode[there], measured.modes),
        formats={name: count for name, count in _counted(measured.kind[there], measured.kinds).items() if name},
        rotated=int((measured.orientation[there] > 1).sum()),
        profiled=int((measured.profile[there] == OTHER_PROFILE).sum()),
        total_bytes=int(size.sum()),
        mean=tuple(means.tolist()),
        std=tuple(np.sqrt(np.maximum(squares - means**2, 0)).tolist()),
    )


def _quantiles(values: NDArray[Any]) -> dict[str, float]:
    found = np.quantile(values.astype(np.float64), list(QUANTILES.values()))
    return {**dict(zip(QUANTILES, found.tolist(), strict=True)), "mean": float(values.mean(dtype=np.float64))}


def _counted(codes: NDArray[np.uint8], names: tuple[str, ...]) -> dict[str, int]:
    """Number of each name, the most frequent first."""
    counts = np.bincount(codes, minlength=len(names)).tolist()
    return {name: count for count, name in sorted(zip(counts, names, strict=True), key=lambda x: -x[0]) if count}
