"""What a dataset must keep: it loads to the same every time, and its images open, in other processes too."""

from __future__ import annotations

from ftkit.api import Dataset, Split, Splits, UnreadableImage
from ftkit.spec.checks import checked_splits
from ftkit.testing.contract import ContractError, kept, require, require_frozen_dataclass
from ftkit.testing.copies import sent

OPENED = 16
"""Most images of a split that are opened, spread evenly over it."""


def check_dataset(dataset: Dataset, opened: int = OPENED) -> Splits:
    """Check a dataset with its options, on the data that they name.

    Args:
        opened: Most images of each split to open.

    Returns:
        What it loaded to.

    Raises:
        ContractError: It isn't a frozen dataclass, loads to something else the second time, has classes or names
            twice, labels out of range, or images that don't open here or in another process, or not to the same.
    """
    require_frozen_dataclass(dataset)
    splits = kept(checked_splits, dataset.load())
    require(splits.train is not None, "there is no training split")
    for name, split in splits.present():
        _check_split(f"{name} split", split, opened)
    require(
        kept(checked_splits, dataset.load()).fingerprint() == splits.fingerprint(),
        "load() found other samples, labels or another order the second time",
        "sort what the file system gives",
    )
    return splits


def _check_split(where: str, split: Split, opened: int) -> None:
    try:
        copy = sent(split)
    except Exception as error:
        raise ContractError(f"{where}: it can't be sent to a reading process: {error}") from error
    for index in range(0, len(split), max(1, len(split) // max(1, opened))):
        _check_image(f"{where}, {split.names[index]}", split, copy, index)


def _check_image(where: str, split: Split, copy: Split, index: int) -> None:
    from PIL.Image import Image

    try:
        image, again = split.open(index), copy.open(index)
    except UnreadableImage as error:
        raise ContractError(f"{where}: {error.message}") from error
    except Exception as error:
        raise ContractError(
            f"{where}: opening it raised {type(error).__name__}: {error}", "ftkit.api.open_image opens files"
        ) from error
    require(isinstance(image, Image), f"{where}: opened to {type(image).__name__}, not to a PIL image")
    same = image.size == again.size and image.mode == again.mode and image.tobytes() == again.tobytes()
    require(same, f"{where}: it opened to another image the second time")
