"""Image files kept decoded: each is decoded once, in the first epoch that needs it, and read from memory after that.

All pixels of a split lie in one piece of memory, or in one file that is mapped into it, at places that the sizes in the
files' headers give. Worker processes share it, since they are forked from the one that made it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psutil
import torch
from torch import Tensor

from ftkit.data.images import Range, open_header, sample_file, upright_size
from ftkit.data.loading.pixels import decoder_versions, sample_pixels
from ftkit.data.loading.workers import START
from ftkit.data.scan.content_digests import ImageDigests, image_digests
from ftkit.distributed.processes import main_first
from ftkit.errors import RequestError
from ftkit.files.cache_folder import MARK, WRITTEN, CacheStore, activation_folder
from ftkit.parts.dataset import Split, SplitName

if TYPE_CHECKING:
    from ftkit.config.schema import Cache

CGROUP = Path("/sys/fs/cgroup")
SPARE = 0.8
"""Part of the free memory that may be taken."""

Shape = tuple[int, int]
"""Height and width; (0, 0) where an image isn't kept."""


@dataclass(frozen=True)
class DecodedSizes:
    """What the images of a split take, decoded.

    Attributes:
        shapes: Of each image, upright.
        channels: Of all.
    """

    shapes: tuple[Shape, ...]
    channels: int

    @property
    def nbytes(self) -> int:
        return self.channels * sum(height * width for height, width in self.shapes)


def open_decoded_caches(
    splits: Mapping[SplitName, Split],
    channels: int,
    config: Cache,
    dataset: str,
    workers: int,
    tell: Callable[[str], None],
    value_range: Range | None = None,
) -> dict[SplitName, DecodedCache]:
    """Room for the decoded images of some splits, where the config wants them kept.

    Args:
        dataset: What it is called, for people.
        value_range: As in `sample_pixels`.

    Raises:
        RequestError: They don't fit, or nothing would come of it.
    """
    if config.decoded == "off":
        return {}
    if workers and START != "fork":
        raise RequestError("--decoded-cache takes worker processes that are forked", "give --workers 0")
    sizes = {name: decoded_sizes(split, channels) for name, split in splits.items()}
    total = sum(size.nbytes for size in sizes.values())
    if not total:
        raise RequestError("--decoded-cache has no effect: the images are in no files of their own", "drop it")
    if config.decoded == "ram":
        require_memory(total * int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    where = "memory" if config.decoded == "ram" else str(activation_folder(config.dir))
    tell(f"images are kept decoded: {total / 1e9:.2f} GB in {where}")
    return {
        name: open_decoded_cache(
            splits[name],
            size,
            config,
            f"dataset {dataset}: {len(size.shapes):,} {name} images decoded",
            value_range,
        )
        for name, size in sizes.items()
    }


def decoded_sizes(split: Split, channels: int) -> DecodedSizes:
    """The sizes in the headers of a split's files; what isn't a file is in memory already, and isn't kept."""
    return DecodedSizes(tuple(_shape(sample_file(split, index)) for index in range(len(split))), channels)


def require_memory(nbytes: int) -> None:
    """Refuse to keep more than fits.

    Raises:
        RequestError: Says what it takes and what is free.
    """
    free = int(SPARE * available_memory())
    if nbytes > free:
        raise RequestError(
            f"--decoded-cache ram: the images take {nbytes / 1e9:.2f} GB, and {free / 1e9:.2f} GB are to be had",
            "give --decoded-cache disk, or off",
        )


def available_memory() -> int:
    """Bytes that this process may still take, by the machine and by the limit of its container."""
    free: int = psutil.virtual_memory().available
    with suppress(OSError, ValueError):
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        return min(free, limit - used)
    return free


def open_decoded_cache(
    split: Split, sizes: DecodedSizes, config: Cache, about: str, value_range: Range | None = None
) -> DecodedCache:
    """The decoded images of a split, none of them there yet, or those of an earlier run on disk.

    Args:
        value_range: As in `sample_pixels`.

    Raises:
        RequestError: There is no room for them.
    """
    count = len(sizes.shapes)
    if config.decoded == "ram":
        data, marks = mmap.mmap(-1, max(1, sizes.nbytes)), mmap.mmap(-1, MARK * max(1, count))
        return DecodedCache(split, sizes, data, marks, value_range=value_range)
    store = CacheStore(activation_folder(config.dir), config.limit)
    images = main_first(lambda: image_digests(split))
    facts = f"decoded {sizes.channels} {value_range} {decoder_versions()} {images.digest}"
    try:
        place, lock = store.reserve(hashlib.sha256(facts.encode()).hexdigest()[:32], about, sizes.nbytes, count)
        data, marks = (_mapped(place / name) for name in ("data", "done"))
    except OSError as error:
        raise RequestError(
            f"--decoded-cache disk: {store.folder}: {error.strerror or error}",
            "make room, raise --cache-limit, or give --decoded-cache off",
        ) from None
    return DecodedCache(split, sizes, data, marks, lock, images, value_range)


class DecodedCache:
    """The pixels of a split's samples, as `engine.input.pixels.sample_pixels` gives them.

    Args:
        data: Holds the pixels, `(height, width, channels)` of each image.
        marks: Says which are there, with a checksum of each where they lie on disk.
        lock: Keeps others from removing the file; None for memory.
        images: What the images of the file are known by; None for memory.
        value_range: As in `sample_pixels`.
    """

    def __init__(
        self,
        split: Split,
        sizes: DecodedSizes,
        data: mmap.mmap,
        marks: mmap.mmap,
        lock: IO[bytes] | None = None,
        images: ImageDigests | None = None,
        value_range: Range | None = None,
    ) -> None:
        self._split, self._sizes, self._lock, self._images = split, sizes, lock, images
        self._value_range = value_range
        self._starts = [0, *accumulate(sizes.channels * height * width for height, width in sizes.shapes)]
        self._data, self._marks = data, memoryview(marks).cast("Q")
        self._sound: set[int] = set()

    def pixels(self, index: int, channels: int) -> Tensor:
        """A sample's pixels, uint8 `(channels, height, width)`; they may be those that are kept, and not be changed.

        Raises:
            UnreadableImage: As `sample_pixels`.
        """
        shape = self._sizes.shapes[index]
        if shape == (0, 0) or channels != self._sizes.channels:
            return sample_pixels(self._split, index, channels, self._value_range)
        kept = torch.frombuffer(
            self._data, dtype=torch.uint8, count=channels * shape[0] * shape[1], offset=self._starts[index]
        ).view(*shape, channels)
        if not self._is_sound(index, kept):
            pixels = sample_pixels(self._split, index, channels, self._value_range)
            if pixels.shape[1:] != shape or not (self._images is None or self._images.is_same(index)):
                # The header says something else than the image, or the image was replaced since the run began.
                return pixels
            kept.copy_(pixels.permute(1, 2, 0))
            self._marks[index] = self._mark(kept)
            self._sound.add(index)
        return kept.permute(2, 0, 1)

    def _is_sound(self, index: int, kept: Tensor) -> bool:
        if index not in self._sound and self._marks[index] and self._marks[index] == self._mark(kept):
            self._sound.add(index)
        return index in self._sound

    def _mark(self, kept: Tensor) -> int:
        # Memory dies with the run; a file may have been cut off by the machine.
        return WRITTEN if self._lock is None else WRITTEN | zlib.crc32(kept.numpy().data)

    def close(self) -> None:
        """Let others remove it."""
        if self._lock is not None:
            self._lock.close()


def _mapped(path: Path) -> mmap.mmap:
    with path.open("r+b") as file:
        # An empty file can't be mapped.
        return mmap.mmap(file.fileno(), 0) if path.stat().st_size else mmap.mmap(-1, 1)


def _shape(file: Path | None) -> Shape:
    if file is None:
        return 0, 0
    try:
        with open_header(file) as image:
            width, height = upright_size(image)
            return height, width
    except RequestError:
        raise
    except Exception:
        # Whoever wants the image is told.
        return 0, 0
