"""Labelled images in tar shards."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from braceexpand import braceexpand

from ftkit.api import (
    Dataset,
    Labelled,
    RequestError,
    Split,
    SplitName,
    Splits,
    UnreadableImage,
    decode_image,
    label_splits,
    one_line,
)
from ftkit_webdataset.index import LABEL, Index, beside, class_names, index_in_parallel, index_of
from ftkit_webdataset.places import is_address, part, stamp

if TYPE_CHECKING:
    from PIL.Image import Image

CLASSES = "classes.txt"
_NUMBER = re.compile(r"-?[0-9]+")
CONNECTIONS = 8
"""Shards whose indexes are read in parallel."""


@dataclass(frozen=True)
class Shards(Dataset):
    """Images in WebDataset's tar shards: `KEY.jpg` beside `KEY.cls`, which holds a class number or a class name.

    Shards may be larger than the disk: over HTTP, each image is fetched when it is needed. Each shard is read once from
    start to end, to index its images; the index is stored in ftkit's cache.

    Attributes:
        train: Training shards: `shards/train-{000000..000009}.tar`, `https://host/train-{00..63}.tar`.
        val: Validation shards; by default a part of `train` is split off.
        test: Test shards.
        classes: Text file of class names in the order of their numbers, one per line; by default `classes.txt` beside
            the first shard, if there is one.
    """

    train: str
    val: str | None = None
    test: str | None = None
    classes: str | None = None

    def load(self) -> Splits:
        return self._joined(for_training=True)

    def load_for_evaluation(self) -> Splits:
        return self._joined(for_training=False)

    def _joined(self, for_training: bool) -> Splits:
        patterns: dict[SplitName, str | None] = {"train": self.train, "val": self.val, "test": self.test}
        found = {name: _read(shards(pattern, name)) for name, pattern in patterns.items() if pattern is not None}
        names = class_names(self.classes or beside(shards(self.train, "train")[0], CLASSES))
        if self.classes is not None and not names:
            raise RequestError(f"dataset.classes: no class names in {self.classes}", "write one per line")
        labelled = {name: _labelled(read, names, name) for name, read in found.items()}
        where = {name: f"dataset.{name}" for name in labelled}
        notes = [note for name, read in found.items() for note in _notes(read, name)]
        return label_splits(labelled, where, tuple(notes), for_training)


def shards(pattern: str, key: str) -> list[str]:
    """Paths or URLs of the shards that match a pattern with braces, or several patterns with `::` between them.

    Raises:
        RequestError: No shard matches, or a brace isn't closed.
    """
    # As WebDataset does; importing it would import torch, which takes longer than planning a run.
    try:
        named = [place for one in pattern.split("::") for place in braceexpand(one)]
    except ValueError as error:  # its UnbalancedBracesError
        raise RequestError(f"dataset.{key}: {one_line(str(error))}", "close each brace") from None
    found = [place if is_address(place) else str(Path(place).expanduser()) for place in named]
    if not found:
        raise RequestError(
            f"dataset.{key}: {pattern!r} matches no shard", "give a pattern such as shards/train-{000000..000009}.tar"
        )
    return found


@dataclass(frozen=True)
class _Shards:
    """The shards of a split.

    Attributes:
        stamp: Text that changes when one of them does; None where a server gives neither ETag nor date.
    """

    places: Sequence[str]
    indices: Sequence[Index]
    stamp: str | None


def _read(places: Sequence[str]) -> _Shards:
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        stamps = list(pool.map(stamp, places))
        index_in_parallel(places, stamps)
        indices = list(pool.map(index_of, places, stamps))
    told = all(changed for _, changed in stamps)
    return _Shards(places, indices, repr([*zip(places, stamps, strict=True)]) if told else None)


def _notes(shards: _Shards, split: str) -> list[str]:
    """A note on samples that have a label but no image."""
    keys = [key for index in shards.indices for key in index.without]
    if not keys:
        return []
    first = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
    what = "sample has no image" if len(keys) == 1 else "samples have no image"
    return [one_line(f"{split}: {len(keys):,} {what} of a format that is read: {first}")]


def _labelled(shards: _Shards, names: Sequence[str], split: SplitName) -> Labelled:
    """The samples of a split with the content of their label files, as numbers if these index the class names."""
    places, indices = shards.places, shards.indices
    texts = [label for index in indices for label in index.labels]
    keys = [key for index in indices for key in index.keys]
    if split == "train" and None in texts:
        without = keys[texts.index(None)]
        raise RequestError(f"dataset.{split}: {without} has no {LABEL}", f"add {without}.{LABEL}, its class")
    counted = bool(names) and all(text is None or not text or _NUMBER.fullmatch(text) for text in texts)
    shard = [number for number, index in enumerate(indices) for _ in index.keys]
    stems = [place.rpartition("/")[2].removesuffix(".tar") for place in places]
    samples = [f"{stems[number]}/{key}" for number, key in zip(shard, keys, strict=True)]
    opens = Members(
        tuple(places),
        array("q", shard),
        array("q", (offset for index in indices for offset in index.offsets)),
        array("q", (size for index in indices for size in index.sizes)),
    )
    values = [int(text) if text and counted else text for text in texts]
    return Labelled(Split(samples, [0] * len(samples), opens, stamp=shards.stamp), values, tuple(names) or None)


@dataclass(frozen=True)
class Members:
    """Opens an image from its byte range in a shard.

    Attributes:
        places: Paths or URLs of shards.
        shard, offset, size: The number of the shard of each sample, and its byte range.
    """

    places: tuple[str, ...]
    shard: Sequence[int] = field(repr=False)
    offset: Sequence[int] = field(repr=False)
    size: Sequence[int] = field(repr=False)

    def __call__(self, index: int) -> Image:
        place = self.places[self.shard[index]]
        name = f"{place}, byte {self.offset[index]}"
        try:
            content = part(place, self.offset[index], self.size[index])
        except Exception as error:  # whatever a disk or a network can raise
            raise UnreadableImage(f"{name}: {one_line(str(error))}") from error
        return decode_image(content, name)
