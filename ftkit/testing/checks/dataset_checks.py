"""What a dataset must keep: it loads to the same every time, and its images open, in other processes too."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from ftkit.api import Dataset, Split, Splits, UnreadableImage
from ftkit.data.loading.lazy_sources import PerThreadOpener
from ftkit.data.plugin_checks import checked_splits
from ftkit.testing.contract import ContractError, require, require_frozen_dataclass, run_plan_check
from ftkit.testing.process_copies import pickled_copy, run_in_fork

THREADS = 4
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
    splits = run_plan_check(checked_splits, dataset.load())
    require(splits.train is not None, "there is no training split")
    for name, split in splits.present():
        _check_split(f"{name} split", split, opened)
    require(
        run_plan_check(checked_splits, dataset.load()).fingerprint() == splits.fingerprint(),
        "load() found other samples, labels or another order the second time",
        "sort what the file system gives",
    )
    return splits


def _check_split(where: str, split: Split, opened: int) -> None:
    try:
        copy = pickled_copy(split)
    except Exception as error:
        raise ContractError(f"{where}: it can't be sent to a reading process: {error}") from error
    # As runs do it: by a copy in each thread and process, made before the data is first read.
    own = replace(split, open=PerThreadOpener(split.open))
    chosen = range(0, len(split), max(1, len(split) // max(1, opened)))
    for index in chosen:
        _check_image(f"{where}, {split.names[index]}", own, copy, index)
    _check_others(where, own, chosen)


def _check_others(where: str, split: Split, chosen: Sequence[int]) -> None:
    """Open the images in threads, and in a process that is forked after they were opened here."""
    wanted = [_pixels(split, index) for index in chosen]
    with ThreadPoolExecutor(THREADS) as pool:
        for index, expected, future in zip(
            chosen, wanted, [pool.submit(_pixels, split, index) for index in chosen], strict=True
        ):
            _compare(f"{where}, {split.names[index]}", "in a thread", future.exception(), future, expected)
    if sys.platform == "linux":
        found = run_in_fork(lambda: [_pixels(split, index) for index in chosen])
        hint = "connect in `open`, when it is first called, and keep the connection in the object itself"
        if isinstance(found, str):
            raise ContractError(f"{where}: opening it in a process forked after it was opened here: {found}", hint)
        require(found == wanted, f"{where}: it opened to other images in a forked process", hint)


def _compare(where: str, how: str, error: BaseException | None, future: Future[bytes], expected: bytes) -> None:
    hint = "connect in `open`, when it is first called, and keep the connection in the object itself"
    if error is not None:
        raise ContractError(f"{where}: opening it {how} raised {type(error).__name__}: {error}", hint) from error
    require(future.result() == expected, f"{where}: it opened to another image {how}", hint)


def _pixels(split: Split, index: int) -> bytes:
    image = split.open(index)
    facts = f"{image.mode} {image.size}\n".encode()
    return hashlib.blake2b(facts + image.tobytes(), digest_size=16).digest()


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
