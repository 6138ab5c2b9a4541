"""Safe extraction of archives: all files stay in one folder and within a size limit."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from ftkit.api import FtkitError, RequestError, kind_of_file

RATIO = 20
SLACK = 1 << 30
"""An archive may extract to `RATIO` times its size plus `SLACK` bytes; images compress far less than that."""

HEADER = 1 << 20
"""Maximum bytes of the header of one tar entry."""
LONGEST_NAME, LONGEST_PART = 1024, 255
BLOCK = 512

_COMPRESSED: tuple[tuple[bytes, Callable[[Path], Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
)


@dataclass(frozen=True)
class _Entry:
    """An entry of an archive.

    Attributes:
        name: Its path in the archive.
        link: The target of a link, relative to the root of the archive.
        open: Opens the content of a file.
    """

    name: str
    kind: Literal["file", "folder", "link", "special"]
    open: Callable[[], IO[bytes]] | None = None
    link: str = ""


@dataclass
class _Allowance:
    """Bytes that may still be written."""

    archive: Path
    left: int

    def require(self, size: int) -> None:
        if size > self.left:
            raise _unsafe(self.archive, f"it extracts to more than {RATIO} times its size plus {SLACK >> 20:,} MiB")

    def take(self, size: int) -> None:
        self.require(size)
        self.left -= size


def unpack(archive: Path, target: Path) -> None:
    """Extract a zip or tar archive into `target`, which must be a new, empty folder.

    Only files and folders are created; a link to a file of the archive becomes a copy of that file. Owners, modes and
    times are ignored.

    Raises:
        RequestError: The file is not an archive, is damaged or encrypted, or is unsafe: a path outside the folder, a
            duplicate or too long name, a link outside, a device, or too many bytes for its size.
        FtkitError: The disk is full or not writable.
    """
    allowance = _Allowance(archive, RATIO * archive.stat().st_size + SLACK)
    try:
        with contextlib.closing(_entries(archive, allowance)) as entries:
            _write_all(entries, archive, target, allowance)
    except FtkitError:
        raise
    except OSError as error:
        if error.errno is None:
            raise _damaged(archive, error) from None
        raise FtkitError(
            f"{archive}: can't be extracted to {target.parent}: {error.strerror}",
            "free disk space there, or set FTKIT_CACHE_DIR to another folder",
        ) from None
    except Exception as error:
        # Both readers raise any exception for damaged archives.
        raise _damaged(archive, error) from None


def _entries(archive: Path, allowance: _Allowance) -> Generator[_Entry, None, None]:
    """The entries of an archive, whose format is detected from its first bytes."""
    with archive.open("rb") as file:
        start = file.read(BLOCK)
    opener = next((opener for magic, opener in _COMPRESSED if start.startswith(magic)), None)
    if opener is not None:
        return _in_tar(archive, opener)
    if start.startswith(b"PK"):
        return _in_zip(archive, allowance)
    if tarfile.is_tarfile(archive):
        return _in_tar(archive, lambda path: path.open("rb"))
    kind = kind_of_file(archive)
    hint = f"it is {kind}" if kind is not None else "check the file: it may be a web page"
    raise RequestError(f"{archive}: not a zip or tar archive", hint)


def _in_zip(archive: Path, allowance: _Allowance) -> Generator[_Entry, None, None]:
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        allowance.require(sum(member.file_size for member in members))
        for member in members:
            if member.flag_bits & 1:
                raise RequestError(f"{archive}: the archive is encrypted", "extract it yourself and give the folder")
            name, mode = member.filename.replace("\\", "/"), member.external_attr >> 16
            kind = stat.S_IFMT(mode)
            if kind == stat.S_IFLNK:
                end = opened.read(member)[: LONGEST_NAME + 1].decode() if member.file_size <= LONGEST_NAME else "/"
                yield _Entry(name, "link", link=_from_top(name, end))
            elif name.endswith("/") or kind == stat.S_IFDIR:
                yield _Entry(name, "folder")
            elif kind in (0, stat.S_IFREG):
                yield _Entry(name, "file", _opener(opened, member))
            else:
                yield _Entry(name, "special")


def _opener(opened: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: opened.open(member)


def _in_tar(archive: Path, opener: Callable[[Path], Any]) -> Generator[_Entry, None, None]:
    with opener(archive) as stream:
        bounded = _Bounded(stream, archive)
        with tarfile.open(fileobj=cast(IO[bytes], bounded), mode="r:", errorlevel=2) as tar:
            while (member := tar.next()) is not None:
                # Otherwise each entry of a large archive stays in memory.
                tar.members.clear()  # type: ignore[attr-defined]
                bounded.left = None
                yield _tar_entry(tar, member)
                bounded.left = HEADER
            stream.seek(tar.offset)
            # The end of a compressed stream contains a checksum, so it must be read.
            if not stream.read(HEADER):
                raise RequestError(f"{archive}: the archive is truncated", "download it again")


def _tar_entry(tar: tarfile.TarFile, member: tarfile.TarInfo) -> _Entry:
    name = member.name
    if member.isdir():
        return _Entry(name, "folder")
    if member.issym():
        return _Entry(name, "link", link=_from_top(name, member.linkname))
    if member.islnk():
        return _Entry(name, "link", link=member.linkname)
    if member.isreg():
        return _Entry(name, "file", lambda: cast(IO[bytes], tar.extractfile(member)))
    return _Entry(name, "special")


class _Bounded:
    """The stream of a tar file with a limit on the size of each entry's header, which tarfile reads into memory."""

    def __init__(self, stream: Any, archive: Path) -> None:
        self.left: int | None = HEADER
        self.stream, self.archive = stream, archive
        self.tell, self.seek, self.close = stream.tell, stream.seek, stream.close

    def read(self, size: int = -1) -> bytes:
        if self.left is not None:
            if not 0 <= size <= self.left:
                raise _unsafe(self.archive, "the header of an entry is too long")
            self.left -= size
        data: bytes = self.stream.read(size)
        return data


def _write_all(entries: Iterable[_Entry], archive: Path, target: Path, allowance: _Allowance) -> None:
    links: list[tuple[_Entry, Path]] = []
    for entry in entries:
        allowance.take(BLOCK)
        parts = _parts(entry.name, archive)
        path = target.joinpath(*parts)
        if entry.kind == "special":
            raise _unsafe(archive, f"{entry.name!r} is a device or a pipe")
        if not parts and entry.kind == "folder":
            continue
        with _named_once(entry, archive):
            (path if entry.kind == "folder" else path.parent).mkdir(parents=True, exist_ok=True)
            if entry.kind == "link":
                links.append((entry, path))
            elif entry.open is not None:
                with entry.open() as source, path.open("xb") as file:
                    _copy(source, file, allowance)
    for entry, path in links:
        _write_link(entry, path, archive, target, allowance)


def _write_link(entry: _Entry, path: Path, archive: Path, target: Path, allowance: _Allowance) -> None:
    """Write a link to a file of the archive as a copy of that file."""
    source = target.joinpath(*_parts(entry.link, archive, f"{entry.name!r} is a link that leaves the archive"))
    if not source.is_file():
        raise _unsafe(archive, f"{entry.name!r} is a link to {entry.link!r}, which is not a file of the archive")
    with _named_once(entry, archive), source.open("rb") as read, path.open("xb") as file:
        _copy(read, file, allowance)


def _copy(source: IO[bytes], file: IO[bytes], allowance: _Allowance) -> None:
    while chunk := source.read(1 << 18):
        allowance.take(len(chunk))
        file.write(chunk)


@contextlib.contextmanager
def _named_once(entry: _Entry, archive: Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise _unsafe(archive, f"it contains {entry.name!r} twice") from None


def _parts(name: str, archive: Path, problem: str = "") -> list[str]:
    """The components of a path in the archive, without any that leads upwards."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or re.match(r"[A-Za-z]:/", name) or ".." in parts or "\0" in name:
        raise _unsafe(archive, problem or f"{name[:100]!r} leaves the folder")
    if len(os.fsencode(name)) > LONGEST_NAME or any(len(os.fsencode(part)) > LONGEST_PART for part in parts):
        raise _unsafe(archive, f"the name {name[:40] + '...'!r} is too long")
    return parts


def _from_top(name: str, end: str) -> str:
    """The target of the link `name`, relative to the root of the archive; `..` remains only if it leads outside."""
    if end.startswith("/"):
        return end
    return os.path.normpath(f"{name.rstrip('/').rpartition('/')[0] or '.'}/{end}")


def _unsafe(archive: Path, reason: str) -> RequestError:
    return RequestError(f"{archive}: unsafe archive: {reason}", "if you trust it, extract it and give the folder")


def _damaged(archive: Path, error: Exception) -> RequestError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return RequestError(f"{archive}: the archive is damaged or truncated: {reason}", "download it again")
