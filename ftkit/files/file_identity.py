"""What a file is known by: its stamp, which changes whenever its content does, and a digest of the content itself."""

from __future__ import annotations

import hashlib
import stat
import struct
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

DIGEST_BYTES = 16
"""Length of `content_digest`."""

_PACKED = struct.Struct("=5q")
_TICK_NS = 20_000_000
"""Longer than any tick of a kernel's clock for change times: within one, a file can change twice at the same time."""
_COARSE_TICK_NS = 2_000_000_000
"""The same where a file system keeps change times in milliseconds, seconds or pairs of seconds."""


class Stamp(NamedTuple):
    """Facts about a file that no program can give to another content: only the kernel sets the change time.

    Size and modification time alone don't do: `cp -p`, `touch -d`, `tar` and `rsync` set the latter, and two files of
    one kind often have the same.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    def packed(self) -> bytes:
        """40 bytes that stand for it."""
        return _PACKED.pack(*(value - 2**64 if value >= 2**63 else value for value in self))

    def text(self) -> str:
        """The same for people and JSON."""
        return " ".join(map(str, self))

    def is_settled(self) -> bool:
        """Whether the file has been left alone long enough that its next change will have another change time."""
        tick = _COARSE_TICK_NS if self.ctime_ns % 1_000_000 == 0 else _TICK_NS
        return self.ctime_ns + tick < time.time_ns()


def file_stamp(path: str | Path) -> Stamp:
    """The stamp of a file, links followed.

    Raises:
        OSError: There is no file, or it is no ordinary one.
    """
    found = Path(path).stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is not a file")
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def content_digest(path: str | Path) -> bytes:
    """`DIGEST_BYTES` bytes that stand for a file's content.

    Raises:
        OSError: The file can't be read, or is no ordinary one.
    """
    file_stamp(path)  # Opening a named pipe would wait for ever.
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=DIGEST_BYTES)).digest()
