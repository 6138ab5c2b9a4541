"""Image formats: file extensions, the reader of each format, and the package it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Literal

EXTRA = "pip install 'ftkit[formats]'"
PILLOW = "install Pillow with {feature} support, which its wheels on PyPI have"


@dataclass(frozen=True)
class Format:
    """An image file format.

    Attributes:
        kinds: PIL's names of the content of such files. Cameras write MPO, two JPEGs in one file, as .jpg.
        module: The optional module that adds the format to PIL; None if PIL reads it.
        package: Name of that package on PyPI.
        feature: The optional feature of PIL that reads it, as in `PIL.features`.
    """

    kinds: tuple[str, ...]
    module: str | None = None
    package: str | None = None
    feature: str | None = None


@dataclass(frozen=True)
class Support:
    """Whether files with an extension can be read.

    Attributes:
        status: `readable`; `missing` if a package must be installed first; `unknown` if the extension is not one of
            the supported image formats.
        remedy: What to install if `missing`, such as `pip install 'ftkit[formats]' (pillow-heif)`; otherwise None.
    """

    status: Literal["readable", "missing", "unknown"]
    remedy: str | None = None


_JPEG = Format(("JPEG", "MPO"))
_TIFF = Format(("TIFF",))
_PPM = Format(("PPM",))
_HEIF = Format(("HEIF", "AVIF"), "pillow_heif", "pillow-heif")
_JXL = Format(("JXL",), "pillow_jxl", "pillow-jxl-plugin")
_JPEG_2000 = Format(("JPEG2000",), feature="jpg_2000")
_AVIF = Format(("AVIF", "HEIF"), feature="avif")

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
FORMATS: Mapping[str, Format] = {
    **dict.fromkeys(JPEG_SUFFIXES, _JPEG),
    ".mpo": _JPEG,
    **dict.fromkeys((".tif", ".tiff"), _TIFF),
    **dict.fromkeys((".pbm", ".pfm", ".pgm", ".pnm", ".ppm"), _PPM),
    **dict.fromkeys((".bmp", ".dib"), Format(("BMP", "DIB"))),
    ".gif": Format(("GIF",)),
    **dict.fromkeys((".png", ".apng"), Format(("PNG",))),
    ".webp": Format(("WEBP",), feature="webp"),
    **dict.fromkeys((".avif", ".avifs"), _AVIF),
    **dict.fromkeys((".heic", ".heif", ".hif", ".heics", ".heifs"), _HEIF),
    ".jxl": _JXL,
    **dict.fromkeys((".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c"), _JPEG_2000),
}
"""By file extension, in lower case."""

IMAGE_SUFFIXES = frozenset(FORMATS)
"""File extensions of images, whether or not their reader is installed."""


def is_image(path: str | Path) -> bool:
    """Whether the name has the extension of an image and isn't hidden.

    The reader needn't be installed: reading the image then raises an error that names the package.

    Args:
        path: A path, or the bare file name as text, which is faster for many files.
    """
    name = path if isinstance(path, str) else path.name
    stem, dot, suffix = name.rpartition(".")
    return dot + suffix.lower() in IMAGE_SUFFIXES and stem != "" and not name.startswith(".")


@cache
def support(suffix: str) -> Support:
    """Whether files with an extension such as `.heic` can be read, and what to install if not."""
    known = FORMATS.get(suffix.lower())
    if known is None:
        return Support("unknown")
    if known.module is not None and not add_reader(suffix.lower()):
        return Support("missing", f"{EXTRA} ({known.package})")
    if known.feature is not None:
        from PIL import features

        if not features.check(known.feature):
            return Support("missing", PILLOW.format(feature=known.feature))
    return Support("readable")


def sniffed(head: bytes) -> str | None:
    """The extension of a format that may need an optional reader, by a file's first 32 bytes; None for others."""
    if head[4:8] == b"ftyp":
        brands = {head[place : place + 4] for place in (8, *range(16, 32, 4))}
        if brands & {b"avif", b"avis"}:
            return ".avif"
        return ".heic" if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"} else None
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        return ".jxl"
    if head.startswith((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")):
        return ".jp2"
    return ".webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


@cache
def add_reader(suffix: str) -> bool:
    """Register the optional reader of an extension with PIL; returns whether it is installed."""
    module = FORMATS[suffix].module
    try:
        found = import_module(module) if module is not None else None
    except (ImportError, OSError):
        # Its binaries are not compatible with this system or this Pillow.
        return False
    if found is not None and hasattr(found, "register_heif_opener"):
        found.register_heif_opener()
    return found is not None
