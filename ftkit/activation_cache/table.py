"""Tables of activations: one row an image, in a file that is mapped into memory.

Rows are computed in chunks, always the same ones, so that a row's last digits don't depend on the run or the process
that computed it. A chunk counts as written once its checksum is stored and matches its bytes.

For training on a GPU, tables are kept in its memory where they fit, so that batches need no copy from the host.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

import torch
from torch import Tensor

from ftkit.files.cache_folder import CHUNK, MARK, WRITTEN, CacheStore

SHARE = 0.5
"""Most of the free memory of the device that tables may take: the network's activations and gradients need the rest."""


def open_table(
    store: CacheStore,
    key: str,
    about: str,
    rows: int,
    values: tuple[Sequence[int], torch.dtype],
    facts: Mapping[str, str] | None = None,
) -> Table:
    """Open the table of a key, or create it.

    Args:
        about: Its content, for people.
        values: Shape and type of a row.
        facts: Its content, for programs; `CacheEntry.metadata` returns it.

    Raises:
        OSError: The disk has no space for it, or the folder can't be written.
    """
    shape, dtype = values
    nbytes = rows * torch.Size(shape).numel() * dtype.itemsize
    place, lock = store.reserve(key, about, nbytes, -(-rows // CHUNK), facts or {})
    try:
        return Table(place, lock, rows, shape, dtype)
    except BaseException:
        lock.close()
        raise


class Table:
    """Rows of one shape, float `(rows, *shape)`. Until it is closed, a lock keeps others from removing it."""

    def __init__(self, folder: Path, lock: IO[bytes], rows: int, shape: Sequence[int], dtype: torch.dtype) -> None:
        self._lock, self._rows = lock, rows
        self._shape, self._dtype = tuple(shape), dtype
        # Rows `(channels, height, width)` are stored channels last, the memory layout of the networks.
        self._has_channels = len(self._shape) == 3
        self._nbytes = torch.Size(shape).numel() * dtype.itemsize
        self._chunks = -(-rows // CHUNK)
        self._data_file, self._done_file = folder / "data", folder / "done"
        self._fds = [os.open(path, os.O_RDWR) for path in (self._data_file, self._done_file)]
        self._data: Tensor | None = None
        self._sound: set[int] = set()

    @property
    def count(self) -> int:
        """Number of rows."""
        return self._rows

    @property
    def nbytes(self) -> int:
        """Size of all rows in bytes."""
        return self._rows * self._nbytes

    def missing(self) -> list[int]:
        """Chunks that aren't written yet, or whose bytes don't match their checksum."""
        done = memoryview(os.pread(self._fds[1], MARK * self._chunks, 0)).cast("Q")
        return [chunk for chunk in range(self._chunks) if not self._is_sound(chunk, done[chunk])]

    def written_row(self) -> int | None:
        """A row that is written; None where none is."""
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
        """Write rows of a chunk; it counts as written only if these are all of its rows.

        Raises:
            OSError: The file can't be written.
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
        """A copy of rows, `(*places.shape, *shape)`, channels last in memory.

        Args:
            places: Row numbers, int64 of any shape.
        """
        if self._data is None:
            size = self._rows * self._nbytes // self._dtype.itemsize
            mapped = torch.from_file(str(self._data_file), shared=True, size=size, dtype=self._dtype)
            shape = (*self._shape[1:], self._shape[0]) if self._has_channels else self._shape
            self._data = mapped.view(self._rows, *shape)
        rows = self._data[places]
        return rows.movedim(-1, -3) if self._has_channels else rows

    def close(self) -> None:
        """Unlock it, so that others may remove it."""
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


class Rows(Protocol):
    """Rows of activations by number."""

    def take(self, places: Tensor) -> Tensor:
        """A copy of rows, `(*places.shape, *shape)`, channels last in memory."""


class DeviceTable:
    """All rows of a table in the memory of a device.

    Args:
        table: Complete.
    """

    def __init__(self, table: Table, device: torch.device) -> None:
        self._device = device
        first = table.take(torch.zeros(1, dtype=torch.int64))
        # Channels last in memory, the memory layout of the networks, as in the file.
        self._has_channels = first.ndim == 4
        last = self._last(first)
        self._rows = last.new_empty((table.count, *last.shape[1:]), device=device)
        for start in range(0, table.count, CHUNK):
            places = torch.arange(start, min(start + CHUNK, table.count))
            self._rows[start : start + len(places)] = self._last(table.take(places)).to(device)

    def take(self, places: Tensor) -> Tensor:
        """As `Table.take`, on the device."""
        rows = self._rows[places.to(self._device, non_blocking=True)]
        return rows.movedim(-1, -3) if self._has_channels else rows

    def _last(self, rows: Tensor) -> Tensor:
        return rows.movedim(-3, -1) if self._has_channels else rows


class PinnedTable:
    """Rows of a table in pinned memory, which are copied to a GPU without waiting for it."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def take(self, places: Tensor) -> Tensor:
        """As `Table.take`, in pinned memory."""
        return self._table.take(places).pin_memory()


class DeviceTables:
    """The tables of a split in the device's memory; those that no longer fit are read from the host."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kept: dict[int, tuple[Table, DeviceTable]] = {}

    def of(self, tables: Mapping[int, Table]) -> Mapping[int, Rows]:
        """The rows of complete tables by variant, from the fastest memory that they fit into."""
        if self._device.type != "cuda":
            return tables
        # An epoch may use some of the variants; a variant has another table once the layers before it have changed.
        self._kept = {v: kept for v, kept in self._kept.items() if tables.get(v, kept[0]) is kept[0]}
        return {variant: self._rows(variant, table) for variant, table in tables.items()}

    def _rows(self, variant: int, table: Table) -> Rows:
        if variant not in self._kept:
            free, _ = torch.cuda.mem_get_info(self._device)
            if table.nbytes > SHARE * free:
                return PinnedTable(table)
            self._kept[variant] = table, DeviceTable(table, self._device)
        return self._kept[variant][1]


def _write(fd: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(fd, content, offset)
        content, offset = content[written:], offset + written
