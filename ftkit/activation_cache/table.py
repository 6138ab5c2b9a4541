"""Tables of activations: a row an image, in a file that is mapped into memory.

Rows are computed in chunks, always the same ones, so that a row's last digits don't depend on which run, or which of
several processes, computed it. A chunk counts as written once its checksum is there, and only where its bytes have that
checksum.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from ftkit.files.cache_folder import CHUNK, MARK, WRITTEN, CacheStore


def open_table(
    store: CacheStore,
    key: str,
    about: str,
    rows: int,
    shape: Sequence[int],
    dtype: torch.dtype,
    facts: Mapping[str, str] | None = None,
) -> Table:
    """The table of a key, made where it isn't there.

    Args:
        about: What it holds, for people.
        facts: The same for programs, as `CacheEntry.metadata` gives it again.

    Raises:
        OSError: There is no room for it, or the folder can't be written.
    """
    nbytes = rows * torch.Size(shape).numel() * dtype.itemsize
    place, lock = store.reserve(key, about, nbytes, -(-rows // CHUNK), facts or {})
    try:
        return Table(place, lock, rows, shape, dtype)
    except BaseException:
        lock.close()
        raise


class Table:
    """Rows of one shape, float `(rows, *shape)`. Holds a lock that keeps others from removing it until it is closed."""

    def __init__(self, folder: Path, lock: IO[bytes], rows: int, shape: Sequence[int], dtype: torch.dtype) -> None:
        self._lock, self._rows = lock, rows
        self._shape, self._dtype = tuple(shape), dtype
        # Rows `(channels, height, width)` lie channels last in the file, as networks take and give them.
        self._has_channels = len(self._shape) == 3
        self._nbytes = torch.Size(shape).numel() * dtype.itemsize
        self._chunks = -(-rows // CHUNK)
        self._data_file, self._done_file = folder / "data", folder / "done"
        self._fds = [os.open(path, os.O_RDWR) for path in (self._data_file, self._done_file)]
        self._data: Tensor | None = None
        self._sound: set[int] = set()

    def missing(self) -> list[int]:
        """Chunks that nobody has written yet, or whose bytes aren't what was written."""
        done = memoryview(os.pread(self._fds[1], MARK * self._chunks, 0)).cast("Q")
        return [chunk for chunk in range(self._chunks) if not self._is_sound(chunk, done[chunk])]

    def sample(self) -> int | None:
        """A row that is there; None where none is."""
        done = memoryview(os.pread(self._fds[1], MARK * self._chunks, 0)).cast("Q")
        written = [chunk for chunk in range(self._chunks) if done[chunk] & WRITTEN]
        for chunk in (*written[len(written) // 2 :], *written):
            if self._is_sound(chunk, done[chunk]):
                return self.rows_of(chunk).start
        return None

    def rows_of(self, chunk: int) -> range:
        """The rows of a chunk."""
        return range(chunk * CHUNK, min((chunk + 1) * CHUNK, self._rows))

    def put(self, chunk: int, places: Sequence[int], values: Tensor) -> None:
        """Write rows of a chunk; it counts as written only where they are all of its rows.

        Raises:
            OSError: They can't be written.
        """
        rows = values.detach().to("cpu", self._dtype)
        rows = rows.movedim(-3, -1) if self._has_channels else rows
        content = rows.contiguous().view(-1).view(torch.uint8).numpy().data
        if len(places) == len(self.rows_of(chunk)):
            _write(self._fds[0], content, places[0] * self._nbytes)
            mark = (zlib.crc32(content) | WRITTEN).to_bytes(MARK, sys.byteorder)
            _write(self._fds[1], memoryview(mark), MARK * chunk)
            self._sound.add(chunk)
            return
        for number, place in enumerate(places):
            row = content[number * self._nbytes : (number + 1) * self._nbytes]
            _write(self._fds[0], row, place * self._nbytes)

    def take(self, places: Tensor) -> Tensor:
        """Rows by their places, int64 of any shape: a copy `(*places.shape, *shape)`, channels last in memory."""
        if self._data is None:
            size = self._rows * self._nbytes // self._dtype.itemsize
            mapped = torch.from_file(str(self._data_file), shared=True, size=size, dtype=self._dtype)
            shape = (*self._shape[1:], self._shape[0]) if self._has_channels else self._shape
            self._data = mapped.view(self._rows, *shape)
        rows = self._data[places]
        return rows.movedim(-1, -3) if self._has_channels else rows

    def close(self) -> None:
        """Let others remove it."""
        self._data = None
        for fd in self._fds:
            os.close(fd)
        self._lock.close()

    def _is_sound(self, chunk: int, mark: int) -> bool:
        if chunk not in self._sound and mark & WRITTEN:
            rows = self.rows_of(chunk)
            content = os.pread(self._fds[0], len(rows) * self._nbytes, rows.start * self._nbytes)
            if zlib.crc32(content) == mark & 0xFFFFFFFF:
                self._sound.add(chunk)
        return chunk in self._sound


def _write(fd: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(fd, content, offset)
        content, offset = content[written:], offset + written
