"""Writing samples as folders of classes, as dataset `folder` reads them, by copies or by links."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from ftkit.data_quality.table_edits import Sample
from ftkit.errors import FtkitError, RequestError
from ftkit.files.durable import replace_folder


def write_class_folders(samples: Iterable[Sample], to: Path, with_splits: bool, link: bool) -> int:
    """Write images to `to/CLASS/NAME`, or `to/SPLIT/CLASS/NAME`, whole or not at all.

    A file whose name is taken in its class folder gets a number.

    Args:
        link: Make symbolic links to the files instead of copies.

    Returns:
        Number of images.

    Raises:
        RequestError: A class can't be the name of a folder, or an image has no class or several.
        FtkitError: A file can't be read or written.
    """
    count = 0

    def write(folder: Path) -> None:
        nonlocal count
        taken = set[str]()
        for sample in samples:
            place = _class_folder(folder, sample, with_splits)
            place.mkdir(parents=True, exist_ok=True)
            target = _free(place / Path(sample.file).name, taken)
            if link:
                target.symlink_to(os.path.realpath(sample.file))
            else:
                shutil.copy2(sample.file, target)
            count += 1

    replace_folder(to, write)
    if not count:
        raise FtkitError(f"{to}: no image is left")
    return count


def _class_folder(folder: Path, sample: Sample, with_splits: bool) -> Path:
    if len(sample.labels) != 1:
        raise RequestError(
            f"{sample.name} has {len(sample.labels)} labels, and a folder is of one class", "write a .csv file instead"
        )
    label = sample.labels[0]
    if "/" in label or "\0" in label or label.startswith(".") or not label:
        raise RequestError(f"class {label!r} can't be the name of a folder", "write a .csv file instead")
    return folder / sample.split / label if with_splits else folder / label


def _free(target: Path, taken: set[str]) -> Path:
    """The path, or one with a number before its extension if it is taken; case doesn't distinguish names everywhere."""
    found, number = target, 2
    while str(found).lower() in taken:
        found, number = target.with_name(f"{target.stem}-{number}{target.suffix}"), number + 1
    taken.add(str(found).lower())
    return found
