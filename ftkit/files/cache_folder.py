"""The folder of cached activations and decoded images: tables shared by runs, limited in size, consistent after a kill.

Each table is a folder: `data` holds its rows, `done` a checksum for each written row or chunk of rows, `table.json` its
description and the time of the last use. A process that uses a table holds a shared lock on it; a table is removed
under an exclusive lock. `activation_cache.table` and `data.loading.decoded_images` read and write the rows.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ftkit.files.json_text import dump_json
from ftkit.files.user_cache import cache_folder

CHUNK = 64
"""Rows of activations that are computed together and share a checksum."""
MARK = 8
"""Bytes of an entry in `done`."""
WRITTEN = 1 << 32
"""Bit of an entry in `done` that is set once its rows are written; the lower half is their CRC-32."""
SPARE = 1 << 30
"""Bytes of the disk that are left free for other programs."""
INFO = "table.json"
PREFIX = "v4-"
"""Start of the names of tables in the current format."""
ANY_FORMAT = "v[0-9]*-*"
"""Tables of every format count towards the limit and can be removed; only those of the current format are read."""
GONE = ".gone-"
"""Start of the names of tables that are being removed."""


def activation_folder(given: str | None = None) -> Path:
    """The folder of the tables: `given`, by default `activations` in the cache folder."""
    return Path(given).expanduser().absolute() if given else cache_folder() / "activations"


@dataclass(frozen=True)
class CacheEntry:
    """A table on disk.

    Attributes:
        description: What it holds, for display.
        nbytes: Disk space in bytes.
        last_used: Time of the last use, in seconds since 1970.
        in_use: Whether a process uses it now.
        metadata: What it holds, for programs; empty for tables of another format.
    """

    path: Path
    description: str
    nbytes: int
    last_used: float
    in_use: bool
    metadata: Mapping[str, str] = field(default_factory=dict)


class CacheStore:
    """The tables in a folder, which together take at most `limit` bytes."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit

    def reserve(
        self, key: str, description: str, nbytes: int, checksums: int, metadata: Mapping[str, str] | None = None
    ) -> tuple[Path, IO[bytes]]:
        """Create a table or open an existing one, with its disk space allocated.

        Tables that were not used for longest are removed to make room.

        Args:
            key: Hexadecimal digest of everything that the rows depend on.
            description: What the table holds, for display.
            nbytes: Size of `data` in bytes.
            checksums: Number of entries in `done`.
            metadata: What the table holds, for programs.

        Returns:
            The table's folder, and a file that holds the shared lock until it is closed.

        Raises:
            OSError: There isn't enough space, or the folder can't be written.
        """
        place = self.folder / f"{PREFIX}{key}"
        while True:
            place.mkdir(parents=True, exist_ok=True)
            lock = (place / "lock").open("ab")
            fcntl.flock(lock, fcntl.LOCK_SH)
            # Another process may have removed the table before it was locked.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), (place / "lock").stat()):
                    break
            lock.close()
        try:
            self._allocate(place, nbytes, checksums)
            # The process that created the table wrote the description; others may have a shorter one.
            info = {"description": description, "metadata": dict(metadata or {}), **_read_info(place)}
            text = dump_json({**info, "last_used": time.time()})
            (place / INFO).write_text(text, encoding="utf-8")
            return place, lock
        except BaseException:
            lock.close()
            raise

    def _allocate(self, place: Path, nbytes: int, checksums: int) -> None:
        sizes = {place / "data": nbytes, place / "done": MARK * checksums}
        lacking = sum(size - (path.stat().st_size if path.exists() else 0) for path, size in sizes.items())
        if lacking:
            self._make_room(lacking, place)
        for path, size in sizes.items():
            # Allocated at once, so that a full disk is an error here and not in the middle of a run.
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if size and os.fstat(fd).st_size != size:
                    os.posix_fallocate(fd, 0, size)
            finally:
                os.close(fd)

    def _make_room(self, lacking: int, keep: Path) -> None:
        for rest in self.folder.glob(f"{GONE}*"):
            shutil.rmtree(rest, ignore_errors=True)
        entries = [entry for entry in self.entries() if entry.path != keep]
        over = sum(entry.nbytes for entry in entries) + lacking - self.limit
        over = max(over, lacking + SPARE - shutil.disk_usage(self.folder).free)
        for entry in sorted(entries, key=lambda entry: entry.last_used):
            if over <= 0:
                return
            if self.remove(entry):
                over -= entry.nbytes
        if over > 0:
            raise OSError(errno.ENOSPC, f"no room for {lacking / 1e9:.2f} GB", str(self.folder))

    def has(self, key: str) -> bool:
        """Whether there is a table of that key, even without rows."""
        return (self.folder / f"{PREFIX}{key}").is_dir()

    def entries(self) -> Iterator[CacheEntry]:
        """All tables in the folder."""
        for place in sorted(self.folder.glob(ANY_FORMAT)) if self.folder.is_dir() else ():
            with suppress(OSError):
                nbytes = sum(file.stat().st_blocks * 512 for file in place.iterdir())
                info, last_used = _read_info(place), place.stat().st_mtime
                with suppress(ValueError, TypeError):
                    last_used = float(info.get("last_used", last_used))
                metadata = info.get("metadata") if place.name.startswith(PREFIX) else None
                yield CacheEntry(
                    path=place,
                    description=str(info.get("description", "being created")),
                    nbytes=nbytes,
                    last_used=last_used,
                    in_use=not self._is_free(place),
                    metadata=_texts(metadata),
                )

    def remove(self, entry: CacheEntry) -> bool:
        """Remove a table unless a process uses it; returns whether it was removed."""
        with suppress(OSError), (entry.path / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            gone = entry.path.with_name(f"{GONE}{os.getpid()}-{entry.path.name}")
            entry.path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
            return True
        return False

    def _is_free(self, place: Path) -> bool:
        with suppress(OSError), (place / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False


def _read_info(place: Path) -> dict[str, Any]:
    """The content of `table.json`; empty where it is missing or invalid."""
    with suppress(ValueError, FileNotFoundError):
        found = json.loads((place / INFO).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _texts(metadata: object) -> dict[str, str]:
    return {k: v for k, v in metadata.items() if isinstance(v, str)} if isinstance(metadata, dict) else {}
