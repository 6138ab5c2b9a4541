"""What is remembered of image files, so that data is read through once and not before every run.

Good files alone are remembered: one that can't be read is looked at again, and so is one whose stamp
(`ftkit.files.file_identity`) is another.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftkit.errors import RequestError
from ftkit.files.file_identity import content_digest, file_stamp
from ftkit.files.user_cache import cache_folder

FORMAT = 3
"""1 knew files by size and modification time alone; 2 nothing of the values of images of more than 8 bits."""
FILE = f"images-{FORMAT}.sqlite3"

MOST = 500_000
"""Files that are remembered, at some 250 bytes each; beyond, those go that have not been asked for longest. What was
asked for within a day stays, however many these are: data of a million images is read once too."""

DAY = 86_400
"""Seconds; when a file was last asked for is written down no more often."""

TOGETHER = 1000
"""Files that are remembered at once; so many are lost where a run is stopped."""

READERS = 8
"""Threads that read files whose content isn't known."""

WAIT_SECONDS = 20.0
"""How long to wait for another run that writes."""

TABLE = """
create table if not exists looks (
    path blob primary key, stamp blob, used integer, decoded integer, remark text, content blob, picture blob,
    extremes text
) without rowid
"""
"""`decoded` is 0 where only the content's digest is known."""

QUESTION = "select used, decoded, remark, content, picture, extremes from looks where path = ? and stamp = ?"


@dataclass(frozen=True)
class ScanResult:
    """What reading a file told.

    Attributes:
        fault: Why it can't be used; None where it can.
        remark: What is odd about a file that can be used.
        content: A digest of its bytes; None where it can't be used.
        picture: What copies of the picture share; None where it is too plain to tell.
        extremes: The least and the greatest value, and whether all are whole numbers, of an image of more than 8 bits
            that doesn't say which values are black and white; None for others.
    """

    fault: str | None = None
    remark: str | None = None
    content: bytes | None = None
    picture: bytes | None = None
    extremes: tuple[float, float, bool] | None = None


@dataclass
class ScanCache:
    """Looks at files by path, on disk; where the disk fails, nothing is remembered, and `trouble` says why."""

    file: Path | None = None
    trouble: str | None = None
    _stamps: dict[str, bytes] = field(default_factory=dict)

    def load(self, files: Iterable[str]) -> dict[str, ScanResult]:
        """What is known of those of the files that are as they were when they were decoded."""
        return {path: _look(*facts) for path, (decoded, *facts) in self._known(files) if decoded}

    def contents(self, files: Iterable[str]) -> dict[str, bytes]:
        """The digest of each file's content; what isn't remembered is read. Files that can't be read are left out."""
        wanted = list(dict.fromkeys(files))
        found = {path: content for path, (_, _, content, *_) in self._known(wanted)}
        unknown = [path for path in wanted if path not in found]
        with ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(unknown), TOGETHER):
                some = unknown[start : start + TOGETHER]
                pairs = zip(some, pool.map(_content, some), strict=True)
                fresh = {path: content for path, content in pairs if content is not None}
                self._write([(path, 0, None, content, None, None) for path, content in fresh.items()])
                found |= fresh
        if unknown:
            self.trim()
        return found

    def save(self, looks: Mapping[str, ScanResult]) -> None:
        """Remember the good ones among them; `trim` is for when all are there."""
        good = ((path, look) for path, look in looks.items() if look.fault is None)
        self._write([(path, 1, look.remark, look.content, look.picture, _text(look.extremes)) for path, look in good])

    def trim(self) -> None:
        """Forget what was not asked for longest, where there is too much."""
        if self.file is None or not self.file.exists():
            return
        with self._spared(), self._open() as database:
            (count,) = database.execute("select count(*) from looks").fetchone() if _has_table(database) else (0,)
            if count > MOST:
                with _writing(database):
                    database.execute(
                        "delete from looks where path in (select path from looks where used < ? order by used limit ?)",
                        (int(time.time()) - DAY, count - MOST),
                    )

    def _known(self, files: Iterable[str]) -> list[tuple[str, tuple[Any, ...]]]:
        """Path, and whether decoded, remark, content, picture and extremes, of the files that are as they were."""
        stamps: dict[str, bytes] = {}
        for path in files:
            # One that has just changed might change again without its stamp telling, and isn't remembered yet.
            self._stamps.pop(path, None)
            with suppress(OSError, ValueError):
                stamp = file_stamp(path)
                if stamp.is_settled():
                    stamps[path] = stamp.packed()
        self._stamps |= stamps
        found: list[tuple[str, tuple[Any, ...]]] = []
        if self.file is None or not self.file.exists():
            return found
        with self._spared(), self._open() as database:
            # Another run may be about to make the table.
            if not _has_table(database):
                return found
            now, stale = int(time.time()), []
            for path, packed in stamps.items():
                row = database.execute(QUESTION, (os.fsencode(path), packed)).fetchone()
                if row is not None:
                    found.append((path, row[1:]))
                    stale += [path] if row[0] < now - DAY // 2 else []
            if stale:
                with _writing(database):
                    database.executemany(
                        "update looks set used = ? where path = ?", ((now, os.fsencode(path)) for path in stale)
                    )
        return found

    def _write(self, facts: Iterable[tuple[Any, ...]]) -> None:
        now = int(time.time())
        rows = [(os.fsencode(path), self._stamps[path], now, *rest) for path, *rest in facts if path in self._stamps]
        if self.file is None or not rows:
            return
        with self._spared():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._remove_older()
            with self._open() as database, _writing(database):
                database.execute(TABLE)
                marks = ", ".join("?" * len(rows[0]))
                database.executemany(f"insert or replace into looks values ({marks})", rows)

    def _remove_older(self) -> None:
        """Files of earlier formats, which nothing reads any more."""
        assert self.file is not None, "callers look first"
        if self.file.exists():
            return
        for other in self.file.parent.glob("images-*.sqlite3"):
            number = re.fullmatch(r"images-(\d+)\.sqlite3", other.name)
            if number is not None and int(number[1]) < FORMAT:
                other.unlink(missing_ok=True)

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


def open_scan_cache() -> ScanCache:
    """The memory in the cache folder."""
    try:
        return ScanCache(cache_folder() / FILE)
    except RequestError as error:
        return ScanCache(trouble=f"what was found isn't remembered: {error}")


@contextmanager
def _writing(database: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, and alone: a lock that is taken later than at the start can't be waited for."""
    with database:
        database.execute("begin immediate")
        yield


def _content(path: str) -> bytes | None:
    try:
        return content_digest(path)
    except (OSError, ValueError):
        return None


def _look(remark: str | None, content: bytes | None, picture: bytes | None, extremes: str | None) -> ScanResult:
    return ScanResult(None, remark, content, picture, tuple(json.loads(extremes)) if extremes else None)


def _text(extremes: tuple[float, float, bool] | None) -> str | None:
    return None if extremes is None else json.dumps(extremes)


def _has_table(database: sqlite3.Connection) -> bool:
    return database.execute("select 1 from sqlite_master where name = 'looks'").fetchone() is not None
