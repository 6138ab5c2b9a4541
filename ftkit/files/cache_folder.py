"""The folder of cached activations and decoded images: tables shared by runs, bounded in size, whole after any kill.

A table is a folder of its own: `data` holds its rows, `done` a checksum for each row or chunk of rows that is written,
`about.json` says what it is and when it was last used. Whoever uses a table holds a shared lock on it, and it is
removed under an exclusive one. `activation_cache.table` and
`data.loading.decoded_images` read and write the rows.
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
"""Rows of activations that are computed together."""
MARK = 8
"""Bytes of a checksum in `done`."""
WRITTEN = 1 << 32
"""Makes a mark of a checksum, which is its lower half."""
SPARE = 1 << 30
"""Bytes of the disk that are left free for others."""
PREFIX = "v3-"
"""Of the folders' names: another format has another one."""
ANY_FORMAT = "v[0-9]*-*"
"""Tables of all formats count toward the limit and are removed in turn; those of others are never read."""
GONE = ".gone-"


def activation_folder(given: str | None = None) -> Path:
    """Where activations are kept: the folder that was asked for, or one in the cache folder."""
    return Path(given).expanduser().absolute() if given else cache_folder() / "activations"


@dataclass(frozen=True)
class CacheEntry:
    """A table that lies on disk.

    Attributes:
        about: What it holds, for people.
        nbytes: That it takes.
        used: When a run last asked for it, in seconds since 1970.
        busy: Whether a run uses it now.
        facts: What it holds, for programs.
    """

    path: Path
    about: str
    nbytes: int
    used: float
    busy: bool
    facts: Mapping[str, str] = field(default_factory=dict)


class CacheStore:
    """All tables in a folder, which take `limit` bytes at most."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit

    def reserve(
        self, key: str, about: str, nbytes: int, marks: int, facts: Mapping[str, str] | None = None
    ) -> tuple[Path, IO[bytes]]:
        """The folder of a table, with room for all of it, and the lock on it; closing it lets go.

        It is made where it isn't there, and others go that were not used for longest.

        Args:
            key: Hexadecimal digits that stand for all that the rows depend on.
            about: What it holds, for people.
            nbytes: Of its `data`.
            marks: In its `done`.
            facts: What it holds, for programs.

        Raises:
            OSError: There is no room for it, or the folder can't be written.
        """
        place = self.folder / f"{PREFIX}{key}"
        while True:
            place.mkdir(parents=True, exist_ok=True)
            lock = (place / "lock").open("ab")
            fcntl.flock(lock, fcntl.LOCK_SH)
            # Another run may have removed it in between.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), (place / "lock").stat()):
                    break
            lock.close()
        try:
            self._make(place, {"about": about, "facts": dict(facts or {})}, nbytes, marks)
            return place, lock
        except BaseException:
            lock.close()
            raise

    def _make(self, place: Path, about: Mapping[str, object], nbytes: int, marks: int) -> None:
        sizes = {place / "data": nbytes, place / "done": MARK * marks}
        lacking = sum(size - (path.stat().st_size if path.exists() else 0) for path, size in sizes.items())
        if lacking:
            self._make_room(lacking, place)
        for path, size in sizes.items():
            # Room is taken at once, so that a full disk is an error here and not a fault in the middle of the run.
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if size and os.fstat(fd).st_size != size:
                    os.posix_fallocate(fd, 0, size)
            finally:
                os.close(fd)
        # Who made it has said what it is; others may know less.
        said = {**about, **_said(place), "used": time.time()}
        (place / "about.json").write_text(dump_json(said), encoding="utf-8")

    def _make_room(self, lacking: int, keep: Path) -> None:
        for rest in self.folder.glob(f"{GONE}*"):
            shutil.rmtree(rest, ignore_errors=True)
        entries = [entry for entry in self.entries() if entry.path != keep]
        over = sum(entry.nbytes for entry in entries) + lacking - self.limit
        over = max(over, lacking + SPARE - shutil.disk_usage(self.folder).free)
        for entry in sorted(entries, key=lambda entry: entry.used):
            if over <= 0:
                return
            if self.remove(entry):
                over -= entry.nbytes
        if over > 0:
            raise OSError(errno.ENOSPC, f"no room for {lacking / 1e9:.2f} GB", str(self.folder))

    def has(self, key: str) -> bool:
        """Whether a table of that key lies there, be it of no row yet."""
        return (self.folder / f"{PREFIX}{key}").is_dir()

    def entries(self) -> Iterator[CacheEntry]:
        """What lies there."""
        for place in sorted(self.folder.glob(ANY_FORMAT)) if self.folder.is_dir() else ():
            with suppress(OSError):
                nbytes = sum(file.stat().st_blocks * 512 for file in place.iterdir())
                said, used = _said(place), place.stat().st_mtime
                with suppress(ValueError, TypeError):
                    used = float(said.get("used", used))
                facts = said.get("facts") if place.name.startswith(PREFIX) else None
                yield CacheEntry(
                    path=place,
                    about=str(said.get("about", "being made")),
                    nbytes=nbytes,
                    used=used,
                    busy=not self._is_free(place),
                    facts={k: v for k, v in facts.items() if isinstance(v, str)} if isinstance(facts, dict) else {},
                )

    def remove(self, entry: CacheEntry) -> bool:
        """Remove a table that no run uses; whether it is gone."""
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


def _said(place: Path) -> dict[str, Any]:
    """What a table's `about.json` says; nothing where it isn't there, or is no such file."""
    with suppress(ValueError, FileNotFoundError):
        found = json.loads((place / "about.json").read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}
