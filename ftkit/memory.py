"""What is remembered of image files, so that data is read through once and not before every run.

Good files alone are remembered: one that can't be read is looked at again, and so is one whose size or time
of change is another.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ftkit.cache import cache_folder
from ftkit.errors import RequestError

FILE = "images-1.sqlite3"
"""The number is that of the format; another version of ftkit with another format has a file of its own."""

MOST = 500_000
"""Files that are remembered, at some 200 bytes each; beyond, those go that have not been asked for longest."""

DAY = 86_400
"""Seconds; when a file was last asked for is written down no more often."""

WAIT_SECONDS = 20.0
"""How long to wait for another run that writes."""

TABLE = """
create table if not exists looks (
    path blob primary key, size integer, mtime_ns integer, used integer, remark text, content blob, picture blob
) without rowid
"""

QUESTION = "select used, remark, content, picture from looks where path = ? and size = ? and mtime_ns = ?"


@dataclass(frozen=True)
class Look:
    """What reading a file told.

    Attributes:
        fault: Why it can't be used; None where it can.
        remark: What is odd about a file that can be used.
        content: A digest of its bytes; None where it can't be used.
        picture: What copies of the picture share; None where it is too plain to tell.
    """

    fault: str | None = None
    remark: str | None = None
    content: bytes | None = None
    picture: bytes | None = None


Stamp = tuple[int, int]
"""Size in bytes and time of change in nanoseconds."""


@dataclass
class Memory:
    """Looks at files by path, on disk; where the disk fails, nothing is remembered, and `trouble` says why."""

    file: Path | None = None
    trouble: str | None = None
    _stamps: dict[str, Stamp] = field(default_factory=dict)

    def recall(self, files: Iterable[str]) -> dict[str, Look]:
        """What is known of those of the files that are as they were."""
        for path in files:
            stamp = _stamp(path)
            if stamp is not None:
                self._stamps[path] = stamp
        found: dict[str, Look] = {}
        if self.file is None or not self.file.exists():
            return found
        with self._spared(), self._open() as database:
            # Another run may be about to make the table.
            if not database.execute("select 1 from sqlite_master where name = 'looks'").fetchone():
                return found
            now, stale = int(time.time()), []
            for path, stamp in self._stamps.items():
                row = database.execute(QUESTION, (os.fsencode(path), *stamp)).fetchone()
                if row is not None:
                    found[path] = Look(None, *row[1:])
                    stale += [path] if row[0] < now - DAY else []
            if stale:
                with _writing(database):
                    database.executemany(
                        "update looks set used = ? where path = ?", ((now, os.fsencode(path)) for path in stale)
                    )
        return found

    def keep(self, looks: Mapping[str, Look]) -> None:
        """Remember the good ones among them."""
        now = int(time.time())
        rows = [
            (os.fsencode(path), *self._stamps[path], now, look.remark, look.content, look.picture)
            for path, look in looks.items()
            if look.fault is None and path in self._stamps
        ]
        if self.file is None or not rows:
            return
        with self._spared():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as database, _writing(database):
                database.execute(TABLE)
                marks = ", ".join("?" * len(rows[0]))
                database.executemany(f"insert or replace into looks values ({marks})", rows)
                (count,) = database.execute("select count(*) from looks").fetchone()
                database.execute(
                    "delete from looks where path in (select path from looks order by used limit ?)",
                    (max(0, count - MOST),),
                )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        assert self.file is not None, "callers look first"
        with closing(sqlite3.connect(self.file, timeout=WAIT_SECONDS, isolation_level=None)) as database:
            # Waiting for the disk would cost a small run more than looking again; a power cut costs the memory.
            database.execute("pragma synchronous = off")
            yield database

    @contextmanager
    def _spared(self) -> Iterator[None]:
        """Whatever goes wrong with the cache, the run goes on without it."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            self.trouble = f"what was found isn't remembered: {self.file}: {reason}"
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                # It is damaged, and holds nothing that can't be found again.
                with suppress(OSError):
                    Path(str(self.file)).unlink()
            self.file = None


def open_memory() -> Memory:
    """The memory in the cache folder."""
    try:
        return Memory(cache_folder() / FILE)
    except RequestError as error:
        return Memory(trouble=f"what was found isn't remembered: {error}")


@contextmanager
def _writing(database: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, and alone: a lock that is taken later than at the start can't be waited for."""
    with database:
        database.execute("begin immediate")
        yield


def _stamp(path: str) -> Stamp | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
