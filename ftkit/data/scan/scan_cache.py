"""Cache of scan results in the user's cache folder, so that data isn't read before every run.

Only readable files are cached. The key of a file is its stamp (`ftkit.files.file_identity`) with the extension of its
name, so a file that has changed is scanned again, and moving a folder changes nothing.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ftkit.data.scan.scan_table import ScanResult
from ftkit.errors import RequestError
from ftkit.files.file_identity import content_digest, file_stamp
from ftkit.files.user_cache import cache_folder

FORMAT = 5
"""1 had only size and modification time; 2 had no extremes; 3 had other column names; 4 had paths in its keys."""
FILE = f"images-{FORMAT}.sqlite3"

MOST = 2_000_000
"""Maximum files in the cache, about 90 bytes each; the least recently used are removed. Files used within a day are
kept however many there are, so that a larger dataset isn't read again either."""

DAY = 86_400
"""Seconds; the time of last use is updated at most about once a day."""

TOGETHER = 1000
"""Results written at once; at most this many are lost if a run is stopped."""

T = TypeVar("T")

ASKED = 900
"""Keys of a query; SQLite permits 999 in its oldest versions."""

READERS = 8
"""Threads that read files for their digests."""

WAIT_SECONDS = 20.0
"""How long to wait for another process that writes."""

TABLE = """
create table if not exists images (
    key blob primary key, used integer, decoded integer, warning text, content blob, perceptual_hash blob, extremes text
) without rowid
"""
"""`decoded` is 0 if only the digest of the content is known."""

QUERY = "select key, used, decoded, warning, content, perceptual_hash, extremes from images where key in ({})"


def file_key(path: str) -> bytes | None:
    """The key of a file, 24 bytes; None for one that doesn't exist, or has just changed and may change again unnoticed.

    It starts with the inode, since a dataset's files usually have similar ones: neighbours in the database are then
    read together.
    """
    try:
        stamp = file_stamp(path)
    except (OSError, ValueError):
        return None
    if not stamp.is_settled():
        return None
    suffix = os.fsencode(path.rpartition(".")[2].lower())
    return (stamp.inode & 0xFFFFFFFFFFFFFFFF).to_bytes(8) + blake2b(stamp.packed() + suffix, digest_size=16).digest()


class CachedResult(NamedTuple):
    """A row of the cache.

    Attributes:
        decoded: Whether the image was decoded; otherwise only the content of `result` is known.
    """

    decoded: bool
    result: ScanResult


@dataclass
class ScanCache:
    """Scan results by key, in a SQLite file; if that fails, nothing is cached and `problem` has the reason."""

    file: Path | None = None
    problem: str | None = None

    def load(self, keys: Iterable[bytes | None]) -> Iterator[CachedResult | None]:
        """The cached result of each key; None for those that have none."""
        for some in _batched(keys, ASKED):
            found = self._query([key for key in some if key is not None])
            for key in some:
                row = None if key is None else found.get(key)
                yield None if row is None else CachedResult(bool(row[0]), _to_result(*row[1:]))

    def contents(self, files: Iterable[str]) -> Iterator[bytes | None]:
        """The digest of each file's content, None for unreadable files; files that aren't cached are read."""
        with ThreadPoolExecutor(READERS) as pool:
            for some in _batched(files, TOGETHER):
                keys = [file_key(path) for path in some]
                found = [None if one is None else one.result.content for one in self.load(keys)]
                unknown = [place for place, content in enumerate(found) if content is None]
                fresh = []
                for place, content in zip(unknown, pool.map(_content, [some[p] for p in unknown]), strict=True):
                    found[place] = content
                    fresh += [(keys[place], CachedResult(False, ScanResult(content=content)))] if content else []
                self.save(fresh)
                yield from found

    def save(self, results: Iterable[tuple[bytes | None, CachedResult]]) -> None:
        """Store results of readable files; call `trim` after the last ones.

        Args:
            results: With the key of each file before it was read; those without a key aren't stored.
        """
        now = int(time.time())
        rows = [
            (key, now, one.decoded, one.result.warning, one.result.content, one.result.perceptual_hash, text)
            for key, one in results
            if key is not None and one.result.error is None
            for text in [_text(one.result.extremes)]
        ]
        if self.file is None or not rows:
            return
        with self._disabled_on_error():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._remove_older()
            with self._open() as database, _writing(database):
                database.execute(TABLE)
                database.executemany("insert or replace into images values (?, ?, ?, ?, ?, ?, ?)", rows)

    def trim(self) -> None:
        """Remove the least recently used files if there are too many."""
        if self.file is None or not self.file.exists():
            return
        with self._disabled_on_error(), self._open() as database:
            (count,) = database.execute("select count(*) from images").fetchone() if _has_table(database) else (0,)
            if count > MOST:
                with _writing(database):
                    database.execute(
                        "delete from images where key in (select key from images where used < ? order by used limit ?)",
                        (int(time.time()) - DAY, count - MOST),
                    )

    def _query(self, keys: Sequence[bytes]) -> dict[bytes, tuple[Any, ...]]:
        """Decoded, warning, content, perceptual hash and extremes of each key that is cached."""
        found: dict[bytes, tuple[Any, ...]] = {}
        if self.file is None or not keys or not self.file.exists():
            return found
        with self._disabled_on_error(), self._open() as database:
            # Another process may be about to create the table.
            if not _has_table(database):
                return found
            now, stale = int(time.time()), []
            for key, used, *rest in database.execute(QUERY.format(", ".join("?" * len(keys))), keys):
                found[key] = tuple(rest)
                stale += [(now, key)] if used < now - DAY // 2 else []
            if stale:
                with _writing(database):
                    database.executemany("update images set used = ? where key = ?", stale)
        return found

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


def _batched(items: Iterable[T], count: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while some := list(islice(iterator, count)):
        yield some


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
