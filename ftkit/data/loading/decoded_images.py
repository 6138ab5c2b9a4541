"""Cache of decoded images: each image file is decoded once, in the first epoch that needs it.

All pixels of a split are in one shared memory block or in one memory-mapped file, at offsets computed from the sizes in
the image headers. Worker processes share it, since they are forked from the process that created it.
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
"""Fraction of the free memory that the cache may use."""

MOST_BYTES, MOST_IMAGES, MOST_OF_MEMORY = 10**9, 5000, 0.25
"""Limits of `auto`: bytes of the decoded images, their number, and the fraction of the available memory."""

Shape = tuple[int, int]
"""Height and width; (0, 0) for an image that isn't cached."""


@dataclass(frozen=True)
class DecodedSizes:
    """Sizes of the decoded images of a split.

    Attributes:
        shapes: The shape of each image, upright.
        channels: The same for all images.
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
    notify: Callable[[str], None],
    value_range: Range | None = None,
) -> dict[SplitName, DecodedCache]:
    """The caches of decoded images of some splits, if the config names a place for them.

    Args:
        dataset: Its name, for the list of caches.
        notify: Called with a line on the size and the place.
        value_range: See `sample_pixels`.

    Raises:
        RequestError: There is not enough memory or disk space, or the samples are not files.
    """
    if config.decoded in ("off", "auto"):
        return {}
    if workers and START != "fork":
        raise RequestError("--decoded-cache needs worker processes started by fork", "give --workers 0")
    sizes = {name: decoded_sizes(split, channels) for name, split in splits.items()}
    total = sum(size.nbytes for size in sizes.values())
    if not total:
        raise RequestError("--decoded-cache has no effect: the samples are not image files", "remove it")
    if config.decoded == "ram":
        require_memory(total * int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    about = {name: f"dataset {dataset}: {len(size.shapes):,} {name} images decoded" for name, size in sizes.items()}
    where = "memory" if config.decoded == "ram" else str(activation_folder(config.dir))
    notify(f"decoded images are cached: {total / 1e9:.2f} GB in {where}")
    return {
        name: open_decoded_cache(splits[name], size, config, about[name], value_range) for name, size in sizes.items()
    }


def open_small_caches(
    splits: Mapping[SplitName, Split],
    channels: int,
    config: Cache,
    workers: int,
    least_pixels: int,
    value_range: Range | None = None,
) -> dict[SplitName, DecodedCache]:
    """The caches in memory by `auto`; none where the images are many or take much memory, or aren't files.

    Args:
        least_pixels: None either where the mean image has fewer: reading it takes little of the time then.
        value_range: See `sample_pixels`.
    """
    if (workers and START != "fork") or sum(map(len, splits.values())) > MOST_IMAGES:
        return {}
    sizes = {name: decoded_sizes(split, channels) for name, split in splits.items()}
    total = sum(size.nbytes for size in sizes.values())
    if total < least_pixels * channels * sum(map(len, splits.values())):
        return {}
    total *= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if not 0 < total <= min(MOST_BYTES, MOST_OF_MEMORY * available_memory()):
        return {}
    in_memory = config.model_copy(update={"decoded": "ram"})
    return {
        name: open_decoded_cache(splits[name], size, in_memory, "", value_range)
        for name, size in sizes.items()
        if size.nbytes
    }


def decoded_sizes(split: Split, channels: int) -> DecodedSizes:
    """The sizes from the headers of a split's files; samples that are not files aren't cached."""
    return DecodedSizes(tuple(_shape(sample_file(split, index)) for index in range(len(split))), channels)


def require_memory(nbytes: int) -> None:
    """Require that the decoded images fit into memory.

    Raises:
        RequestError: They don't; names the sizes.
    """
    free = int(SPARE * available_memory())
    if nbytes > free:
        raise RequestError(
            f"--decoded-cache ram: the images take {nbytes / 1e9:.2f} GB, but {free / 1e9:.2f} GB are available",
            "give --decoded-cache disk, or off",
        )


def available_memory() -> int:
    """Bytes of memory available to this process, within the limit of its container."""
    free: int = psutil.virtual_memory().available
    with suppress(OSError, ValueError):
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        return min(free, limit - used)
    return free


def open_decoded_cache(
    split: Split, sizes: DecodedSizes, config: Cache, about: str, value_range: Range | None = None
) -> DecodedCache:
    """The cache of the decoded images of a split: empty, or that of an earlier run on disk.

    Args:
        value_range: See `sample_pixels`.

    Raises:
        RequestError: There is not enough disk space.
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
            "free disk space, raise --cache-limit, or give --decoded-cache off",
        ) from None
    return DecodedCache(split, sizes, data, marks, lock, images, value_range)


class DecodedCache:
    """The pixels of a split's samples, as `sample_pixels` returns them, each decoded once.

    Args:
        data: The pixels, `(height, width, channels)` of each image.
        marks: Marks the cached images, with a checksum of each if they are on disk.
        lock: Prevents the removal of the file by other processes; None for memory.
        images: Digests of the images in the file; None for memory.
        value_range: See `sample_pixels`.
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
        self._valid: set[int] = set()

    def pixels(self, index: int, channels: int) -> Tensor:
        """A sample's pixels, uint8 `(channels, height, width)`; don't change them, they may be those of the cache.

        Raises:
            UnreadableImage: As in `sample_pixels`.
        """
        shape = self._sizes.shapes[index]
        if shape == (0, 0) or channels != self._sizes.channels:
            return sample_pixels(self._split, index, channels, self._value_range)
        kept = torch.frombuffer(
            self._data, dtype=torch.uint8, count=channels * shape[0] * shape[1], offset=self._starts[index]
        ).view(*shape, channels)
        if not self._is_valid(index, kept):
            pixels = sample_pixels(self._split, index, channels, self._value_range)
            if pixels.shape[1:] != shape or not (self._images is None or self._images.is_same(index)):
                # The header gave another size, or the image was replaced since the run started.
                return pixels
            kept.copy_(pixels.permute(1, 2, 0))
            self._marks[index] = self._mark(kept)
            self._valid.add(index)
        return kept.permute(2, 0, 1)

    def _is_valid(self, index: int, kept: Tensor) -> bool:
        if index not in self._valid and self._marks[index] and self._marks[index] == self._mark(kept):
            self._valid.add(index)
        return index in self._valid

    def _mark(self, kept: Tensor) -> int:
        # Only a file needs a checksum: a crash of the machine may have truncated it.
        return WRITTEN if self._lock is None else WRITTEN | zlib.crc32(kept.numpy().data)

    def close(self) -> None:
        """Allow other processes to remove the file."""
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
        # The error is raised when the image is read.
        return 0, 0
