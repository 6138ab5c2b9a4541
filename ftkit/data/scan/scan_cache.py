"""Cache of scan results in the user's cache folder, so that data isn't read before every run.

Only readable files are cached. A file whose stamp (`ftkit.files.file_identity`) has changed is scanned again.
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

FORMAT = 4
"""1 had only size and modification time; 2 had no extremes; 3 had other column names."""
FILE = f"images-{FORMAT}.sqlite3"

MOST = 500_000
"""Maximum files in the cache, about 250 bytes each; the least recently used are removed. Files used within a day are
kept however many there are, so that a dataset of a million images isn't read again either."""

DAY = 86_400
"""Seconds; the time of last use is updated at most about once a day."""

TOGETHER = 1000
"""Results written at once; at most this many are lost if a run is stopped."""

READERS = 8
"""Threads that read files for their digests."""

WAIT_SECONDS = 20.0
"""How long to wait for another process that writes."""

TABLE = """
create table if not exists images (
    path blob primary key, stamp blob, used integer, decoded integer, warning text, content blob, perceptual_hash blob,
    extremes text
) without rowid
"""
"""`decoded` is 0 if only the digest of the content is known."""

QUERY = "select used, decoded, warning, content, perceptual_hash, extremes from images where path = ? and stamp = ?"


@dataclass(frozen=True)
class ScanResult:
    """The result of scanning a file.

    Attributes:
        error: Why it can't be read; None if it can.
        warning: A problem of a file that can be read, such as a wrong extension.
        content: Digest of the file's bytes; None if it can't be read.
        perceptual_hash: Similar for copies of an image; None if the image has too few features.
        extremes: Minimum, maximum, and whether all values are integers, of an image of more than 8 bits that doesn't
            declare the values of black and white; None for other images.
    """

    error: str | None = None
    warning: str | None = None
    content: bytes | None = None
    perceptual_hash: bytes | None = None
    extremes: tuple[float, float, bool] | None = None


@dataclass
class ScanCache:
    """Scan results by path, in a SQLite file; if that fails, nothing is cached and `problem` has the reason."""

    file: Path | None = None
    problem: str | None = None
    _stamps: dict[str, bytes] = field(default_factory=dict)

    def load(self, files: Iterable[str]) -> dict[str, ScanResult]:
        """The results of those files that are unchanged since they were scanned."""
        return {path: _to_result(*row) for path, (decoded, *row) in self._query(files) if decoded}

    def contents(self, files: Iterable[str]) -> dict[str, bytes]:
        """The digest of each file's content; files that aren't cached are read, and unreadable ones omitted."""
        wanted = list(dict.fromkeys(files))
        found = {path: content for path, (_, _, content, *_) in self._query(wanted)}
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

    def save(self, results: Mapping[str, ScanResult]) -> None:
        """Store the results of readable files; call `trim` after the last ones."""
        good = ((path, one) for path, one in results.items() if one.error is None)
        self._write(
            [(path, 1, one.warning, one.content, one.perceptual_hash, _text(one.extremes)) for path, one in good]
        )

    def trim(self) -> None:
        """Remove the least recently used files if there are too many."""
        if self.file is None or not self.file.exists():
            return
        with self._disabled_on_error(), self._open() as database:
            (count,) = database.execute("select count(*) from images").fetchone() if _has_table(database) else (0,)
            if count > MOST:
                with _writing(database):
                    database.execute(
                        "delete from images where path in "
                        "(select path from images where used < ? order by used limit ?)",
                        (int(time.time()) - DAY, count - MOST),
                    )

    def _query(self, files: Iterable[str]) -> list[tuple[str, tuple[Any, ...]]]:
        """Path and row (decoded, warning, content, perceptual hash, extremes) of each unchanged file."""
        stamps: dict[str, bytes] = {}
        for path in files:
            # A file that has just changed might change again with the same stamp, so it isn't cached yet.
            self._stamps.pop(path, None)
            with suppress(OSError, ValueError):
                stamp = file_stamp(path)
                if stamp.is_settled():
                    stamps[path] = stamp.packed()
        self._stamps |= stamps
        found: list[tuple[str, tuple[Any, ...]]] = []
        if self.file is None or not self.file.exists():
            return found
        with self._disabled_on_error(), self._open() as database:
            # Another process may be about to create the table.
            if not _has_table(database):
                return found
            now, stale = int(time.time()), []
            for path, packed in stamps.items():
                row = database.execute(QUERY, (os.fsencode(path), packed)).fetchone()
                if row is not None:
                    found.append((path, row[1:]))
                    stale += [path] if row[0] < now - DAY // 2 else []
            if stale:
                with _writing(database):
                    database.executemany(
                        "update images set used = ? where path = ?", ((now, os.fsencode(path)) for path in stale)
                    )
        return found

    def _write(self, values: Iterable[tuple[Any, ...]]) -> None:
        now = int(time.time())
        rows = [(os.fsencode(path), self._stamps[path], now, *rest) for path, *rest in values if path in self._stamps]
        if self.file is None or not rows:
            return
        with self._disabled_on_error():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._remove_older()
            with self._open() as database, _writing(database):
                database.execute(TABLE)
                marks = ", ".join("?" * len(rows[0]))
                database.executemany(f"insert or replace into images values ({marks})", rows)

    def _remove_older(self) -> None:
        """Remove the files of earlier formats."""
        assert self.file is not None, "checked by callers"
        if self.file.exists():
            return
        for other in self.file.parent.glob("images-*.sqlite3"):
            number = re.fullmatch(r"images-(\d+)\.sqlite3", other.name)
            if number is not None and int(number[1]) < FORMAT:
                other.unlink(missing_ok=True)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        assert self.file is not None, "checked by callers"
        with closing(sqlite3.connect(self.file, timeout=WAIT_SECONDS, isolation_level=None)) as database:
            # Waiting for the disk would take a small run longer than another scan; a power failure loses the cache.
            database.execute("pragma synchronous = off")
            yield database

    @contextmanager
    def _disabled_on_error(self) -> Iterator[None]:
        """Disable the cache if something fails, so that the run continues without it."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            self.problem = f"the image scan isn't cached: {self.file}: {reason}"
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                # It is damaged, and all of it can be computed again.
                with suppress(OSError):
                    Path(str(self.file)).unlink()
            self.file = None


def open_scan_cache() -> ScanCache:
    """The scan cache in the user's cache folder."""
    try:
        return ScanCache(cache_folder() / FILE)
    except RequestError as error:
        return ScanCache(problem=f"the image scan isn't cached: {error}")


@contextmanager
def _writing(database: sqlite3.Connection) -> Iterator[None]:
    """A transaction that takes the write lock at its start, since sqlite can't wait for a lock taken later."""
    with database:
        database.execute("begin immediate")
        yield


def _content(path: str) -> bytes | None:
    try:
        return content_digest(path)
    except (OSError, ValueError):
        return None


def _to_result(
    warning: str | None, content: bytes | None, perceptual_hash: bytes | None, extremes: str | None
) -> ScanResult:
    return ScanResult(None, warning, content, perceptual_hash, tuple(json.loads(extremes)) if extremes else None)


def _text(extremes: tuple[float, float, bool] | None) -> str | None:
    return None if extremes is None else json.dumps(extremes)


def _has_table(database: sqlite3.Connection) -> bool:
    return database.execute("select 1 from sqlite_master where name = 'images'").fetchone() is not None
