"""Image headers as cameras, editors and broken programs write them: EXIF, XMP, ICC profiles, JPEG and PNG parts."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BYTE, ASCII, SHORT, LONG, SBYTE, UNDEFINED, SSHORT, SLONG = 1, 2, 3, 4, 6, 7, 8, 9
"""Types of EXIF tags."""

STORED = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[3, 6], [2, 5], [1, 4]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[4, 1], [5, 2], [6, 3]],
}
"""How each orientation stores the picture 1 2 3 / 4 5 6, as the EXIF standard has it."""

BLOCK = 16
"""Side of what is one value in `STORED`, so that lossy formats keep it."""


def stored(orientation: int) -> Image.Image:
    """The picture as a camera that was held so stores it."""
    values = np.array(STORED[orientation], dtype=np.uint8) * 40
    return Image.fromarray(np.repeat(np.repeat(values, BLOCK, 0), BLOCK, 1)).convert("RGB")


def shown(pixels: NDArray[np.uint8]) -> list[list[int]]:
    """The values of `STORED` that pixels `(channels, height, width)` show."""
    middles = pixels[0, BLOCK // 2 :: BLOCK, BLOCK // 2 :: BLOCK].astype(float)
    return [[round(value / 40) for value in row] for row in middles.tolist()]


def exif(orientation: int, kind: int = SHORT, endian: str = "<", thumbnail: int | None = None) -> bytes:
    """An EXIF block with an orientation, and perhaps another one for its thumbnail."""
    order = b"II" if endian == "<" else b"MM"
    main = _directory(orientation, kind, endian)
    place = 0 if thumbnail is None else 8 + len(main) + 4
    body = main + struct.pack(endian + "I", place)
    if thumbnail is not None:
        body += _directory(thumbnail, SHORT, endian) + bytes(4)
    return b"Exif\0\0" + order + struct.pack(endian + "HI", 42, 8) + body


def _directory(orientation: int, kind: int, endian: str) -> bytes:
    value = {
        BYTE: struct.pack("B3x", orientation),
        ASCII: str(orientation).encode() + b"\0\0\0",
        SHORT: struct.pack(endian + "HH", orientation, 0),
        LONG: struct.pack(endian + "I", orientation),
        SBYTE: struct.pack("b3x", orientation),
        UNDEFINED: struct.pack("B3x", orientation),
        SSHORT: struct.pack(endian + "hh", orientation, 0),
        SLONG: struct.pack(endian + "i", orientation),
    }[kind]
    return struct.pack(endian + "HHHI", 1, 0x0112, kind, 1 + (kind == ASCII)) + value


def xmp(orientation: int, form: str = "attribute") -> bytes:
    """An XMP packet with an orientation, as an attribute or as an element."""
    inside = {
        "attribute": f'<rdf:Description tiff:Orientation="{orientation}"/>',
        "element": f"<rdf:Description><tiff:Orientation>{orientation}</tiff:Orientation></rdf:Description>",
    }[form]
    spaces = 'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/" {spaces}><rdf:RDF>{inside}</rdf:RDF></x:xmpmeta>'.encode()


def app1(content: bytes) -> bytes:
    """A JPEG segment of that marker."""
    return segment(0xE1, content)


def app1_xmp(orientation: int, form: str = "attribute") -> bytes:
    return app1(b"http://ns.adobe.com/xap/1.0/\0" + xmp(orientation, form))


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def jpeg(image: Image.Image, segments: Sequence[bytes] = (), **settings: object) -> bytes:
    """A JPEG with segments right behind its start."""
    written = io.BytesIO()
    image.save(written, "JPEG", quality=95, **settings)
    content = written.getvalue()
    return content[:2] + b"".join(segments) + content[2:]


def png(image: Image.Image, chunks: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """A PNG with chunks right behind its header."""
    written = io.BytesIO()
    image.save(written, "PNG")
    content, made = written.getvalue(), b""
    for kind, data in chunks:
        made += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content[:33] + made + content[33:]


SRGB_PRIMARIES = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
P3_PRIMARIES = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_PRIMARIES = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def icc(primaries: Sequence[Sequence[float]] | None, curve: float | Sequence[float]) -> bytes:
    """An ICC profile for RGB with primaries (as XYZ under D50), or without for grey; the curve is a gamma or sRGB's."""
    if isinstance(curve, float):
        tone = b"curv" + bytes(4) + struct.pack(">IH2x", 1, round(curve * 256))
    else:
        tone = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + b"".join(map(_fixed, curve))
    tags = [
        (b"desc", b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)),
        (b"cprt", b"text" + bytes(4) + b"none\0"),
        (b"wtpt", _xyz((0.9642, 1.0, 0.8249))),
    ]
    if primaries is None:
        tags.append((b"kTRC", tone))
    else:
        tags += [(name, _xyz(one)) for name, one in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)]
        tags += [(name, tone) for name in (b"rTRC", b"gTRC", b"bTRC")]
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags:
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    space = b"GRAY" if primaries is None else b"RGB "
    head = struct.pack(
        ">4sI4s4s4s6H4s4s", b"lcms", 0x02400000, b"mntr", space, b"XYZ ", 2020, 1, 1, 0, 0, 0, b"acsp", b""
    )
    head = (head + bytes(24)).ljust(64, b"\0") + b"".join(map(_fixed, (0.9642, 1.0, 0.8249)))
    whole = head.ljust(124, b"\0") + table + body
    return struct.pack(">I", len(whole) + 4) + whole


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, values))


SRGB = icc(SRGB_PRIMARIES, SRGB_CURVE)
DISPLAY_P3 = icc(P3_PRIMARIES, SRGB_CURVE)
ADOBE_RGB = icc(ADOBE_PRIMARIES, 563 / 256)
LINEAR_GREY = icc(None, 1.0)


def png_of_16_bits(values: NDArray[np.integer[Any]], chunks: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """A PNG of values `(height, width)`, or `(height, width, 2 to 4)`, which PIL can't write."""
    bands = values.shape[2] if values.ndim == 3 else 1
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    made = b"\x89PNG\r\n\x1a\n"
    for name, data in [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]:
        made += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return made


def tiff(values: NDArray[np.generic], tags: Mapping[int, tuple[int, Sequence[int]]] | None = None) -> bytes:
    """An uncompressed TIFF, little endian, of values `(height, width)` or `(height, width, bands)`.

    Args:
        tags: By number: type and values, as PhotometricInterpretation `{262: (SHORT, [0])}`.
    """
    bands, bits = values.shape[2] if values.ndim == 3 else 1, 8 * values.dtype.itemsize
    formats = {"u": 1, "i": 2, "f": 3}
    all_tags: dict[int, tuple[int, Sequence[int]]] = {
        256: (LONG, [values.shape[1]]),
        257: (LONG, [values.shape[0]]),
        258: (SHORT, [bits] * bands),
        259: (SHORT, [1]),
        262: (SHORT, [2 if bands >= 3 else 1]),
        277: (SHORT, [bands]),
        278: (LONG, [values.shape[0]]),
        279: (LONG, [values.nbytes]),
        339: (SHORT, [formats[values.dtype.kind]] * bands),
        **(tags or {}),
    }
    all_tags[273] = (LONG, [0])
    start = 8 + 2 + 12 * len(all_tags) + 4
    extra, rows, spot = b"", b"", 0
    for number, (kind, content) in sorted(all_tags.items()):
        packed = struct.pack(f"<{len(content)}{'H' if kind == SHORT else 'I'}", *content)
        if number == 273:
            spot = len(rows) + 8
        if len(packed) > 4:
            rows += struct.pack("<HHII", number, kind, len(content), start + len(extra))
            extra += packed
        else:
            rows += struct.pack("<HHI", number, kind, len(content)) + packed.ljust(4, b"\0")
    rows = rows[:spot] + struct.pack("<I", start + len(extra)) + rows[spot + 4 :]
    head = b"II" + struct.pack("<HIH", 42, 8, len(all_tags))
    return head + rows + bytes(4) + extra + values.astype(values.dtype.newbyteorder("<")).tobytes()
