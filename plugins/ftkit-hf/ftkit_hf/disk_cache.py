"""Files of the disk cache of streamed data."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import get_ident

from ftkit.api import cache_folder

FORMAT = 2


def write_whole(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}-{os.getpid()}-{get_ident()}")
    try:
        write(fresh)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


def trim(folder: Path, limit: int) -> None:
    """Remove the least recently used blocks; processes that have one open can still read it."""
    found = []
    for path in folder.glob("*.arrow*"):  # including unfinished files of killed processes
        with suppress(OSError):
            facts = path.stat()
            found.append((facts.st_mtime_ns, facts.st_size, path))
    left = sum(size for _, size, _ in found)
    for _, size, path in sorted(found)[:-1]:
        if left <= limit:
            return
        with suppress(OSError):
            path.unlink()
            left -= size


def place(kind: str, *what: str) -> Path:
    sign = hashlib.sha256("\0".join([str(FORMAT), *what]).encode("utf-8", "surrogatepass")).hexdigest()
    return cache_folder() / "hf" / f"{sign}.{kind}"
