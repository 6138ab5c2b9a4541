"""Looks at labelled images before a project is made of them: how many, of which classes, how large."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

from ftkit.data.images import ImageFiles, open_header, upright_size
from ftkit.errors import RequestError
from ftkit.parts.dataset import Split
from ftkit.plugins import Registry

SAMPLE = 200
"""Images whose headers are read; spread evenly over the training split, and so over its classes."""

GREY_MODES = frozenset({"1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L"})


@dataclass(frozen=True)
class DatasetStats:
    """What a look at the data told.

    Attributes:
        dataset: What reads it: `folder`, `csv` or `archive`.
        option: The option of it that says where the data lies.
        path: Where that is: an absolute path, or the address of an archive.
        counts: Training images by class, in label order.
        sizes: Images by split.
        width, height: Medians of the sample, in pixels.
        grey: Whether every image of the sample is grey.
        example: A picture to try a prediction on, absolute.
        notes: What the dataset has to say, such as files passed over.
    """

    dataset: str
    option: str
    path: str
    counts: Mapping[str, int]
    sizes: Mapping[str, int]
    width: int
    height: int
    grey: bool
    example: Path
    notes: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """Training images."""
        return self.sizes["train"]

    @property
    def side(self) -> int:
        """The shorter of the median sides, in pixels."""
        return min(self.width, self.height)


def compute_stats(dataset: Mapping[str, str]) -> DatasetStats:
    """Find the classes and images of a dataset as training will find them, and look at some.

    Of at most 200 images the header is read, and none is decoded.

    Args:
        dataset: As the config has it: the `name` of a dataset of files, and the option with its path.

    Raises:
        RequestError: Nothing is there, or nothing that a classifier can be trained on.
    """
    name, (option, text) = dataset["name"], next(item for item in dataset.items() if item[0] != "name")
    place = text if "://" in text else Path(text).expanduser().absolute()
    path = str(place)
    # The built-in dataset itself looks, so that there is one idea of what counts as data.
    splits = Registry().datasets.get(name)(**{option: place}).load()
    train = splits.train
    if train is None or not len(train):
        raise RequestError(f"{path} has no training images", "put them into a folder called train, or a split train")
    headers = _headers(train)
    if not headers:
        raise RequestError(f"{path}: none of {min(len(train), SAMPLE)} images can be read", "look at one of them")
    images = Counter(train.labels)
    return DatasetStats(
        name,
        option,
        path,
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
    """Size and mode of one image, or None where it can't be read: training will name it."""
    try:
        with open_header(path) as image:
            width, height = upright_size(image)
            return _Header(path, width, height, image.mode in GREY_MODES)
    except Exception:
        # Training will name it with its reason.
        return None
