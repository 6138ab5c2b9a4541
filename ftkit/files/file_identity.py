"""The identity of a file: a stamp, which changes whenever the content does, and a digest of the content."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

DIGEST_BYTES = 16
"""Bytes of a `content_digest`."""

_PACKED = struct.Struct("=5q")
_TICK_NS = 20_000_000
"""Longer than the resolution of the kernel's clock for change times. Two changes within it may have the same time."""
_COARSE_TICK_NS = 2_000_000_000
"""The same for file systems that store change times in milliseconds, seconds or pairs of seconds."""


class Stamp(NamedTuple):
    """Metadata of a file that identifies its content, since only the kernel can set the change time.

    Size and modification time aren't enough: `cp -p`, `touch -d`, `tar` and `rsync` set the modification time, and
    similar files often share both.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    def packed(self) -> bytes:
        """The stamp as 40 bytes."""
        try:
            return _PACKED.pack(*self)
        except struct.error:
            # Some file systems have inodes of 64 bits.
            return _PACKED.pack(*(value - 2**64 if value >= 2**63 else value for value in self))

    def text(self) -> str:
        """The stamp as text, for JSON and messages."""
        return " ".join(map(str, self))

    def is_settled(self) -> bool:
        """Whether the last change is old enough that the next one gets a different change time."""
        tick = _COARSE_TICK_NS if self.ctime_ns % 1_000_000 == 0 else _TICK_NS
        return self.ctime_ns + tick < time.time_ns()


def file_stamp(path: str | Path) -> Stamp:
    """The stamp of a file; symbolic links are followed.

    Raises:
        OSError: The file doesn't exist or isn't a regular file.
    """
    found = os.stat(path)  # noqa: PTH116 - a Path takes three times as long
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is not a file")
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def content_digest(path: str | Path) -> bytes:
    """The BLAKE2b digest of a file's content, `DIGEST_BYTES` bytes.

    Raises:
        OSError: The file can't be read or isn't a regular file.
    """
    file_stamp(path)  # Refuses named pipes, on which `open` would block.
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=DIGEST_BYTES)).digest()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
