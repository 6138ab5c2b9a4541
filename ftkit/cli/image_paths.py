"""Image paths from command-line arguments: files, folders, globs, and lists on stdin."""

from __future__ import annotations

import glob
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import translate
from itertools import chain
from pathlib import Path
from typing import IO

from ftkit.data.walk import HIDDEN, SYSTEM_NAMES, UNOPENED, SkippedFiles, scan_folder, walk_folders, walk_images
from ftkit.errors import RequestError

CHUNK = 1 << 16
"""Bytes to read from stdin at a time."""
ENCODING_SAMPLE = 16
"""Bytes needed to distinguish UTF-16 from names that end with a zero byte."""


def find_images(arguments: Iterable[str], stdin: IO[str] | None, left_out: SkippedFiles) -> Iterator[Path]:
    """Image files in the order of the arguments; folders and globs are sorted, and read lazily.

    A named file, or one that matches a glob, is included whatever its suffix, and even if it doesn't exist, so that
    the output has a line for it. Folders are walked like the class folders of a training.

    Args:
        stdin: A list of paths, for the argument `-`.
        left_out: Counts files in folders that are not included.

    Raises:
        RequestError: There is no image.
    """
    arguments = list(arguments)
    missing = [a for a in arguments if not (a == "-" or os.path.lexists(a) or next(_matches(a, SkippedFiles()), None))]
    if len(missing) == len(arguments):
        raise RequestError(f"{missing[0]}: no such file or folder", f"relative paths start from {Path.cwd()}")
    found = chain.from_iterable(_expand(argument, stdin, left_out) for argument in arguments)
    first = next(found, None)
    if first is None:
        left = "; ".join(left_out.lines())
        raise RequestError(
            f"no images in {', '.join(arguments)}{f': {left}' if left else ''}",
            "give image files, or folders that contain images",
        )
    return chain([first], found)


def _expand(argument: str, stdin: IO[str] | None, left_out: SkippedFiles) -> Iterator[Path]:
    if argument == "-":
        yield from map(Path, read_path_list(stdin))
    elif os.path.isdir(argument):  # noqa: PTH112 - an empty argument would be the working folder
        yield from _below(argument, left_out)
    elif os.path.lexists(argument) or not glob.has_magic(argument):
        yield Path(argument)
    else:
        empty = True
        for match in _matches(argument, left_out):
            empty = False
            yield from _below(match, left_out) if os.path.isdir(match) else [Path(match)]  # noqa: PTH112
        if empty:
            yield Path(argument)


def _below(folder: str, left_out: SkippedFiles) -> Iterator[Path]:
    root = Path(folder)
    inner = SkippedFiles(prefix=f"{root}/", parent=left_out)
    return (root / name for name in walk_images(root, "", inner))


def read_path_list(stdin: IO[str] | None) -> Iterator[str]:
    """The paths in a list: one a line, or separated by zero bytes as `find -print0` writes them.

    Names are decoded like file names of the system. Byte order marks are recognised, and so is UTF-16, which
    PowerShell writes.

    Raises:
        RequestError: There is no stdin.
    """
    if stdin is None:
        raise RequestError("-: stdin is closed, so no paths can be read", "pipe a list of files into the command")
    buffer = getattr(stdin, "buffer", None)
    if buffer is None:
        yield from (line for line in (text.rstrip("\r\n") for text in stdin) if line)
        return
    head = b""
    while not (b"\n" in head or (b"\0" in head and len(head) >= ENCODING_SAMPLE)) and (chunk := _some(buffer)):
        head += chunk
    decode, end, head = _encoding(head)
    for item in _items(buffer, head, end):
        name = decode(item)
        name = name.rstrip("\r") if b"\n" in end else name
        if name:
            yield name


def _some(buffer: IO[bytes]) -> bytes:
    """The bytes that are available, without waiting for a full chunk."""
    return buffer.read1(CHUNK) if isinstance(buffer, io.BufferedReader) else buffer.read(CHUNK)


def _encoding(head: bytes) -> tuple[Callable[[bytes], str], bytes, bytes]:
    """The decoder of names, the separator between them, and `head` without its byte order mark."""
    for mark, name in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        bare = not head.startswith(mark) and _is_utf16(head, name)
        if head.startswith(mark) or bare:
            return _decoder(name), "\n".encode(name), head if bare else head[2:]
    if b"\0" in head:
        return os.fsdecode, b"\0", head
    return os.fsdecode, b"\n", head.removeprefix(b"\xef\xbb\xbf")


def _decoder(encoding: str) -> Callable[[bytes], str]:
    return lambda item: item.decode(encoding, "surrogatepass")


def _is_utf16(head: bytes, name: str) -> bool:
    """Whether every second byte of the first name is zero, as in UTF-16 text of ASCII characters."""
    line = head[: head.find(b"\n")] if b"\n" in head else head
    zeros = line[1 if name.endswith("le") else 0 :: 2]
    return len(line) > 3 and zeros.count(0) > len(zeros) * 0.9 and line.count(0) == zeros.count(0)


def _items(buffer: IO[bytes], head: bytes, end: bytes) -> Iterator[bytes]:
    """The byte strings between separators, which lie at multiples of the separator's length."""
    rest = head
    while True:
        *whole, rest = _split(rest, end)
        yield from whole
        chunk = _some(buffer)
        if not chunk:
            break
        rest += chunk
    if rest:
        yield rest


def _split(data: bytes, end: bytes) -> list[bytes]:
    if len(end) == 1:
        return data.split(end)
    found, start, place = [], 0, 0
    while (place := data.find(end, place)) >= 0:
        if place % len(end):
            place += 1
            continue
        found.append(data[start:place])
        start = place = place + len(end)
    return [*found, data[start:]]


def _matches(pattern: str, left_out: SkippedFiles) -> Iterator[str]:
    """Files and folders that match a glob, without those inside a matching folder; nothing if it isn't a glob."""
    if not glob.has_magic(pattern):
        return
    parts = [part for part in pattern.split("/") if part]
    whole: set[str] = set()
    for path in _matching("/" if pattern.startswith("/") else "", parts, left_out):
        if pattern.endswith("/") and not os.path.isdir(path):  # noqa: PTH112
            continue
        if whole and any(path[:place] in whole for place in (m.start() for m in re.finditer("/", path))):
            continue
        if "**" in parts and os.path.isdir(path):  # noqa: PTH112
            whole.add(path)
        yield path


def _matching(base: str, parts: list[str], left_out: SkippedFiles) -> Iterator[str]:
    if not parts:
        yield base
        return
    head, rest = parts[0], parts[1:]
    if not glob.has_magic(head):
        path = os.path.join(base, head)  # noqa: PTH118 - keep the pattern's own prefix
        if os.path.lexists(path):
            yield from _matching(path, rest, left_out)
    elif head == "**":
        if not rest:
            yield base or "."
            return
        for where, _ in walk_folders(Path(base), "", SkippedFiles(prefix=f"{base}/" if base else "", parent=left_out)):
            yield from _matching(os.path.join(base, where) if where else base, rest, left_out)  # noqa: PTH118
    elif os.path.isdir(base or "."):  # noqa: PTH112
        yield from _named(base, head, rest, left_out)


def _named(base: str, head: str, rest: list[str], left_out: SkippedFiles) -> Iterator[str]:
    """Entries of a folder that match one part of a pattern; hidden ones only if the pattern starts with a dot."""
    fits = re.compile(translate(head)).match
    try:
        entries = scan_folder(base or ".")
    except OSError as error:
        left_out.add(UNOPENED, base or ".", error.strerror or str(error))
        return
    for entry in entries:
        path = os.path.join(base, entry.name)  # noqa: PTH118
        if not fits(entry.name) or (rest and entry.kind != "folder"):
            continue
        if entry.name.lower() in SYSTEM_NAMES:
            left_out.add(HIDDEN, path)
        elif not entry.name.startswith(".") or head.startswith("."):
            yield from _matching(path, rest, left_out)
