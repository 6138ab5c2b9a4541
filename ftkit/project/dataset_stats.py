"""Statistics of a dataset, from which the first config of a project is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

from ftkit.config.dataset_choice import DatasetChoice
from ftkit.data.images import ImageFiles, open_header, upright_size
from ftkit.errors import RequestError
from ftkit.parts.dataset import Split
from ftkit.parts.label_sets import count_classes

SAMPLE = 200
"""Most images whose headers are read, spread evenly over the training split and so over its classes."""

GREY_MODES = frozenset({"1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L"})


@dataclass(frozen=True)
class DatasetStats:
    """Statistics of a dataset.

    Attributes:
        dataset: The dataset's name: `folder`, `csv` or `archive`.
        options: Its options as YAML values, that for the path first; paths are absolute.
        counts: Number of training images by class, in label order.
        sizes: Number of images by split.
        width, height: Medians of the sampled images, in pixels.
        grey: Whether all sampled images are greyscale.
        example: Absolute path of an image for a first prediction.
        notes: The dataset's notes, such as files that were left out.
    """

    dataset: str
    options: Mapping[str, Any]
    counts: Mapping[str, int]
    sizes: Mapping[str, int]
    width: int
    height: int
    grey: bool
    example: Path
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """An absolute path, or the URL of an archive."""
        return str(next(iter(self.options.values())))

    @property
    def images(self) -> int:
        """Number of training images."""
        return self.sizes["train"]

    @property
    def side(self) -> int:
        """The shorter of the median sides, in pixels."""
        return min(self.width, self.height)


def compute_stats(data: DatasetChoice) -> DatasetStats:
    """Compute the statistics of a dataset. Headers of at most 200 images are read, and no image is decoded.

    Args:
        data: A dataset of files; its first option is the path.

    Raises:
        RequestError: There is no data, or no readable training image.
    """
    splits, path = data.dataset.load(), next(iter(data.options.values()))
    train = splits.train
    if train is None or not len(train):
        raise RequestError(f"{path} has no training images", "put them into a folder or a split called train")
    headers = _headers(train)
    if not headers:
        raise RequestError(f"{path}: none of {min(len(train), SAMPLE)} images can be read", "check the files")
    images = count_classes(train.labels)
    return DatasetStats(
        data.name,
        data.options,
        {name: images[label] for label, name in enumerate(splits.classes)},
        {name: len(split) for name, split in splits.present()},
        width=median_low([h.width for h in headers]),
        height=median_low([h.height for h in headers]),
        grey=all(h.grey for h in headers),
        example=headers[0].path,
        notes=splits.notes,
    )


@dataclass(frozen=True)
class _Header:
    path: Path
    width: int
    height: int
    grey: bool


def _headers(split: Split) -> list[_Header]:
    assert isinstance(split.open, ImageFiles), "datasets of files open files"
    root = split.open.root
    step = max(1, -(-len(split) // SAMPLE))
    read = (_header(root / split.names[index]) for index in range(0, len(split), step))
    return [header for header in read if header is not None]


def _header(path: Path) -> _Header | None:
    """Size and mode of an image, or None where it can't be read."""
    try:
        with open_header(path) as image:
            width, height = upright_size(image)
            return _Header(path, width, height, image.mode in GREY_MODES)
    except Exception:
        # Training reports unreadable images.
        return None
