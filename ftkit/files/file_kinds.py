"""File types recognised by their first bytes, whatever the file name."""

from __future__ import annotations

import re
from pathlib import Path

HEAD = 1024
"""Bytes at the start of a file that are enough to recognise it."""

_BY_START: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"8BPS", "a Photoshop image"),
    (b"%PDF", "a PDF document"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word document"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"7z\xbc\xaf'\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"version https://git-lfs", "a git-lfs pointer"),
    (b"../.git/annex", "a git-annex pointer"),
    (b"/annex/objects", "a git-annex pointer"),
)
_IMAGES = re.compile(rb"P[1-6]\s+(#[^\n]*\n\s*)*\d")
_WORKBOOK = (b"[Content_Types].xml", b"_rels/", b"xl/", b"docProps/")


def kind_of_bytes(head: bytes) -> str | None:
    """The file type of content that starts with `head`, such as `a JPEG image`; None where it is unknown.

    Args:
        head: The first `HEAD` bytes.
    """
    for start, kind in _BY_START:
        if head.startswith(start) and not (start == b"BM" and not _is_bmp(head)):
            return kind
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
        if name.startswith(_WORKBOOK):
            return "an Excel workbook"
        return "a zip archive" if b"/data.pkl" not in head else "a PyTorch checkpoint"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 1 << 32:
        return "a safetensors file"
    if head[4:8] == b"ftyp":
        return "a HEIC or AVIF image" if head[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"avif") else "a video"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a WebP image"
    if head[257:262] == b"ustar":
        return "a tar archive"
    if _IMAGES.match(head):
        return "a PPM image"
    return _text_kind(head)


def kind_of_file(path: str | Path) -> str | None:
    """The type of a file, such as `a JPEG image`; None where it is unknown or the file can't be read."""
    try:
        with Path(path).open("rb") as file:
            return kind_of_bytes(file.read(HEAD))
    except OSError:
        return None


def is_image_kind(kind: str | None) -> bool:
    """Whether a type returned by `kind_of_bytes` is an image type."""
    return kind is not None and kind.endswith(" image")


def _is_bmp(head: bytes) -> bool:
    return len(head) >= 18 and int.from_bytes(head[14:18], "little") in (12, 16, 40, 52, 56, 64, 108, 124)


def _text_kind(head: bytes) -> str | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text in UTF-16"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return "an HTML page"
    if start.startswith((b"<?xml", b"<svg", b"<?xpacket")):
        return "an SVG image" if b"<svg" in start else "an XML file"
    if start.startswith((b'{"', b"{\n", b"{\r", b"{ ", b'[{"', b'["')):
        return "a JSON file"
    return None
