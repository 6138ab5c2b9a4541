"""Images of more than 8 bits: which values are black and white, from the file, from a setting, or guessed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ftkit.data.images.orientation import upright
from ftkit.data.images.wide import wide_content, wide_values

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

Range = tuple[float, float]
"""The values of black and white."""

DEPTH = "ftkit_depth"
"""Key of `Image.info` for the `Depth` of the file."""

JPEG_2000_HEAD = 4096
"""Bytes of the file searched for the start of the codestream, which has the bits per sample."""

FULL = (0.0, 65535.0)
CEILINGS = (1.0, 255.0, 65535.0)
"""Candidates for white in floating-point images; the smallest that covers all values is used."""


@dataclass(frozen=True)
class Depth:
    """What a file declares about its values.

    Attributes:
        stated: The values of black and white; None if the file doesn't declare them.
        inverted: Whether the smallest value is white, as in TIFFs with PhotometricInterpretation WhiteIsZero.
        content: The file's bytes if it has 16 bits per colour channel, since PIL keeps only the high bytes.
    """

    stated: Range | None = None
    inverted: bool = False
    content: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Extremes:
    """The minimum and maximum of an image that doesn't declare the values of black and white.

    Attributes:
        whole: Whether its values are integers.
    """

    low: float
    high: float
    whole: bool


def deep(image: Image) -> bool:
    """Whether the image has a single channel of more than 8 bits."""
    return image.mode in {"I", "F"} or image.mode.startswith("I;16")


def read_depth(image: Image) -> None:
    """Store the `Depth` of an opened image in `info`, before decoding or rotating loses it."""
    if DEPTH in image.info:
        return
    content = None if deep(image) else wide_content(image)
    if not deep(image) and content is None:
        return
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        image.info[DEPTH] = replace(_of_tiff(tags), content=content)
    elif image.format == "PNG":
        bits = _significant_bits(image)
        image.info[DEPTH] = Depth(_of_png(_whole_values(image, content), bits) if bits else None, content=content)
    elif image.mode == "F" and image.format == "JXL":
        image.info[DEPTH] = Depth((0.0, 1.0))
    elif image.mode != "F" and _is_spread(image):
        image.info[DEPTH] = Depth(FULL)


def extremes(image: Image) -> Extremes | None:
    """Minimum and maximum of an image of more than 8 bits that doesn't declare its range; None for other images."""
    import numpy as np

    depth = _depth(image)
    if depth.stated is not None or not (deep(image) or depth.content):
        return None
    # For colour images the high bytes are enough to see whether the upper part of the range is used.
    values = np.asarray(image if deep(image) else image.convert("RGB"))
    finite = values if image.mode != "F" else values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return Extremes(low, high, image.mode != "F") if deep(image) else Extremes(low * 256, high * 256 + 255, True)


def in_range(image: Image, value_range: Range | None) -> Image:
    """Convert 16 bits per colour channel to 8 bits if black and white are other values than 0 and 65535."""
    import numpy as np
    import PIL.Image

    depth = _depth(image)
    found = depth.stated or value_range
    if depth.content is None or found is None or found == FULL:
        return image
    low, high = found
    values = (wide_values(image, depth.content) - low) / (high - low) * 255.0
    colours = PIL.Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    if image.mode == "RGBA":
        colours.putalpha(image.getchannel("A"))
    if "icc_profile" in image.info:
        colours.info["icc_profile"] = image.info["icc_profile"]
    return colours


def eight_bits(image: Image, value_range: Range | None = None) -> Image:
    """Convert a single channel of more than 8 bits to 8-bit grey.

    Args:
        value_range: Values of black and white if the file doesn't declare them. None: 0 to 65535 for integers; 0 to 1,
            255 or 65535 for floating point, the smallest that covers all values; otherwise minimum to maximum.
    """
    import numpy as np
    import PIL.Image

    return PIL.Image.fromarray(_scaled(image, value_range, 255).astype(np.uint8))


def sixteen_bits(image: Image, value_range: Range | None = None) -> Image:
    """Convert a single channel of more than 8 bits to 16-bit grey, 0 to 65535."""
    import numpy as np
    import PIL.Image

    return PIL.Image.fromarray(_scaled(image, value_range, 65535).astype(np.uint16))


def _scaled(image: Image, value_range: Range | None, white: int) -> NDArray[np.float64]:
    import numpy as np

    values, depth = np.asarray(image).astype(np.float64), _depth(image)
    low, high = depth.stated or value_range or _guessed(values, whole=image.mode != "F")
    grey = np.nan_to_num((values - low) / (high - low) * white, posinf=white, neginf=0.0).round().clip(0, white)
    if depth.inverted:
        grey = white - grey
    if isinstance(transparent := image.info.get("transparency"), int):
        grey[values == transparent] = white
    return grey


def _guessed(values: NDArray[np.float64], whole: bool) -> Range:
    import numpy as np

    finite = values[np.isfinite(values)]
    return guessed_range([Extremes(float(finite.min()), float(finite.max()), whole)] if finite.size else [])


def guessed_range(found: list[Extremes]) -> Range:
    """Guess the values of black and white from the extremes of all images that don't declare them."""
    low, high = min((e.low for e in found), default=0.0), max((e.high for e in found), default=0.0)
    ceilings = FULL[1:] if all(e.whole for e in found) else CEILINGS
    ceiling = next((ceiling for ceiling in ceilings if high <= ceiling), None) if low >= 0 else None
    if ceiling is not None:
        return 0.0, ceiling
    return low, high if high > low else low + 1.0


def _depth(image: Image) -> Depth:
    found = image.info.get(DEPTH)
    return found if isinstance(found, Depth) else Depth()


def _of_tiff(tags: Any) -> Depth:
    """From SMinSampleValue and SMaxSampleValue, or BitsPerSample, or MaxSampleValue.

    MaxSampleValue is used only if it is the largest value of some number of bits: many programs write the maximum of
    the single image there, and scaling each image by its own maximum would brighten dark images.
    """
    inverted = _number(tags, 262) == 0
    low, high = _number(tags, 340), _number(tags, 341)
    if high is not None and high > (low or 0.0):
        return Depth((low or 0.0, high), inverted)
    bits, most = _number(tags, 258), _number(tags, 281)
    if bits is not None and 8 < bits < 16:
        return Depth((0.0, 2.0 ** int(bits) - 1), inverted)
    if most is not None and most in {2.0**bits - 1 for bits in range(9, 17)}:
        return Depth((0.0, most), inverted)
    return Depth(None, inverted)


def _is_spread(image: Image) -> bool:
    """Whether the file has fewer than 16 bits and PIL scales them to the full 16-bit range."""
    if image.format == "PPM":
        # With a maximum of 65535 PIL doesn't scale.
        return any(isinstance(tile.args, tuple) for tile in getattr(image, "tile", ()))
    file = getattr(image, "fp", None)
    if image.format != "JPEG2000" or file is None:
        return False
    place = file.tell()
    try:
        file.seek(0)
        head = file.read(JPEG_2000_HEAD)
    finally:
        file.seek(place)
    size = head.find(b"\xff\x4f\xff\x51")
    bits = head[size + 42 : size + 43] if size >= 0 else b""
    return bool(bits) and 8 < (bits[0] & 0x7F) + 1 < 16


def _number(tags: Any, tag: int) -> float | None:
    """A tag's value; None if it is missing or differs between channels."""
    try:
        value = tags.get(tag)
        values = {float(v) for v in (value if isinstance(value, tuple) else (value,))}
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return next(iter(values)) if len(values) == 1 and all(map(isfinite, values)) else None


def _significant_bits(image: Image) -> int | None:
    """The significant bits of a 16-bit PNG by its sBIT chunk, 9 to 15; None if there is none or the file is gone."""
    file = getattr(image, "fp", None)
    if file is not None and not file.closed:
        place = file.tell()
        try:
            return _in_header(file)
        finally:
            file.seek(place)
    try:
        with Path(getattr(image, "filename", "") or os.devnull).open("rb") as again:
            return _in_header(again)
    except OSError:
        return None


def _in_header(file: IO[bytes]) -> int | None:
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
        if head[4:] == b"sBIT":
            bits = file.read(1)
            return bits[0] if bits and 8 < bits[0] < 16 else None
        file.seek(int.from_bytes(head[:4]) + 4, 1)
    return None


def _whole_values(image: Image, content: bytes | None) -> NDArray[np.int64]:
    import numpy as np

    return np.asarray(image).astype(np.int64) if content is None else wide_values(upright(image), content)


def _of_png(values: NDArray[np.int64], bits: int) -> Range | None:
    """The range of a 16-bit PNG with fewer significant bits.

    By the PNG standard such values are scaled to 16 bits: the low bits are zeros or repeat the high bits. Many programs
    write unscaled values instead, which don't follow that pattern.
    """
    high, low = values >> (16 - bits), values & ((1 << (16 - bits)) - 1)
    spread = bool((low == 0).all() or (low == high >> (2 * bits - 16)).all())
    return None if spread or values.max(initial=0) >= 1 << bits else (0.0, 2.0**bits - 1)
