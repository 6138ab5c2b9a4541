"""The contract of a dataset: it loads to the same samples every time, and images open in other processes too."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, replace

from ftkit.api import Dataset, Split, Splits, UnreadableImage
from ftkit.data.loading.lazy_sources import PerThreadOpener
from ftkit.data.plugin_checks import checked_splits
from ftkit.testing.contract import ContractError, require, require_frozen_dataclass, run_plan_check
from ftkit.testing.process_copies import pickled_copy, run_in_fork

CONNECTION_HINT = "connect in the first call of `open`, and keep the connection in an attribute of the object"
THREADS = 4
OPENED = 16
"""Most images of a split that are opened, spread evenly over it."""


def check_dataset(dataset: Dataset, opened: int = OPENED) -> Splits:
    """Check a dataset instance.

    Args:
        opened: Most images of each split to open.

    Returns:
        The loaded splits.

    Raises:
        ContractError: The class isn't a frozen dataclass, `layout_options` names what is no option, `load` gives other
            samples the second time, classes or names aren't unique, labels are out of range, or an image doesn't open,
            or opens to other pixels, in this or in another process.
    """
    require_frozen_dataclass(dataset)
    unknown = set(dataset.layout_options) - {field.name for field in fields(dataset)}  # type: ignore[arg-type]
    require(not unknown, f"layout_options names what is no option: {', '.join(sorted(unknown))}")
    splits = run_plan_check(checked_splits, dataset.load())
    require(splits.train is not None, "there is no training split")
    for name, split in splits.present():
        _check_split(f"{name} split", split, opened)
    require(
        run_plan_check(checked_splits, dataset.load()).fingerprint() == splits.fingerprint(),
        "load() found other samples, labels or another order the second time",
        "sort the files, since their order in a folder is undefined",
    )
    return splits


def _check_split(where: str, split: Split, opened: int) -> None:
    try:
        copy = pickled_copy(split)
    except Exception as error:
        raise ContractError(f"{where}: it can't be sent to a worker process: {error}") from error
    # As in a run, each thread and process uses its own copy, which is made before the data is first read.
    own = replace(split, open=PerThreadOpener(split.open))
    chosen = range(0, len(split), max(1, len(split) // max(1, opened)))
    for index in chosen:
        _check_image(f"{where}, {split.names[index]}", own, copy, index)
    _check_others(where, own, chosen)


def _check_others(where: str, split: Split, chosen: Sequence[int]) -> None:
    """Open the images in threads, and in a process that is forked after they were opened in this one."""
    wanted = [_pixels(split, index) for index in chosen]
    with ThreadPoolExecutor(THREADS) as pool:
        for index, expected, future in zip(
            chosen, wanted, [pool.submit(_pixels, split, index) for index in chosen], strict=True
        ):
            _compare(f"{where}, {split.names[index]}", "in a thread", future.exception(), future, expected)
    if sys.platform == "linux":
        found = run_in_fork(lambda: [_pixels(split, index) for index in chosen])
        hint = CONNECTION_HINT
        if isinstance(found, str):
            raise ContractError(f"{where}: opening it in a process forked after an image was opened: {found}", hint)
        require(found == wanted, f"{where}: its images differ in a forked process", hint)


def _compare(where: str, how: str, error: BaseException | None, future: Future[bytes], expected: bytes) -> None:
    hint = CONNECTION_HINT
    if error is not None:
        raise ContractError(f"{where}: opening it {how} raised {type(error).__name__}: {error}", hint) from error
    require(future.result() == expected, f"{where}: the image differs {how}", hint)


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
            f"{where}: opening it raised {type(error).__name__}: {error}", "open files by ftkit.api.open_image"
        ) from error
    require(isinstance(image, Image), f"{where}: open returned {type(image).__name__}, not a PIL image")
    same = image.size == again.size and image.mode == again.mode and image.tobytes() == again.tobytes()
    require(same, f"{where}: the image differs the second time")
