"""What a dataset must keep: it loads to the same every time, and its images open, in other processes too."""

from __future__ import annotations

from ftkit.api import Dataset, Split, Splits, UnreadableImage
from ftkit.testing.contract import ContractError, require, require_frozen_dataclass
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
    splits = dataset.load()
    require(isinstance(splits, Splits), f"load() returned {type(splits).__name__}, not Splits")
    require(len(set(splits.classes)) == len(splits.classes), "a class is there twice")
    require(all(isinstance(name, str) and name for name in splits.classes), "a class has no name")
    require(splits.train is not None, "there is no training split")
    for name, split in splits.present():
        _check_split(f"{name} split", split, len(splits.classes), opened)
    require(
        dataset.load().fingerprint() == splits.fingerprint(),
        "load() found other samples, labels or another order the second time",
        "sort what the file system gives",
    )
    return splits


def _check_split(where: str, split: Split, classes: int, opened: int) -> None:
    require(len(split.names) == len(split.labels), f"{where}: {len(split.names)} names, {len(split.labels)} labels")
    require(len(set(split.names)) == len(split.names), f"{where}: a name is there twice", "predictions go by names")
    wrong = [label for label in split.labels if not (isinstance(label, int) and 0 <= label < classes)]
    require(not wrong, f"{where}: label {wrong[0] if wrong else ''} is no index of the {classes} classes")
    blocks = split.blocks
    if blocks is not None:
        fits = len(blocks) == len(split.names) and all(isinstance(b, int) and b >= 0 for b in blocks)
        require(fits, f"{where}: blocks aren't a number from 0 for each sample")
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
