"""Colours of 16 bits a channel, of which PIL reads the high bytes alone: the low ones, for where they count."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from ftkit.data.images.orientation import upright

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

OTHER_BYTE = {"L": "B", "B": "L", "N": "B"}
"""By the byte order of a raw mode: the one by which PIL takes the low byte for the high one."""

GREY_ALPHA = "LA;16B"
"""Grey with alpha, which PIL can't read by its low bytes; all of its bytes are those of an RGBA image."""


def wide_content(image: Image) -> bytes | None:
    """The file of an image that PIL has opened and not yet read, where it has colours of 16 bits; None for others."""
    if image.mode not in {"RGB", "RGBA"} or not _raw_mode(image) or (file := getattr(image, "fp", None)) is None:
        return None
    place = file.tell()
    try:
        file.seek(0)
        content: bytes = file.read()
        return content
    finally:
        file.seek(place)


def wide_values(image: Image, content: bytes) -> NDArray[np.int64]:
    """The colours of an image that is read and upright, `(height, width, 3)`, 0 to 65535.

    Where the low bytes can't be had, since PIL can't give them or the image was scaled since, they count as zero.
    """
    import numpy as np

    high = np.asarray(image.convert("RGB") if image.mode != "RGB" else image).astype(np.int64) << 8
    low = _low_bytes(content)
    return high if low is None or low.size != image.size else high + np.asarray(low.convert("RGB"))


def _low_bytes(content: bytes) -> Image | None:
    import PIL.Image

    with PIL.Image.open(io.BytesIO(content)) as image:
        raw = _raw_mode(image)
        changed = "RGBA" if raw == GREY_ALPHA else raw[:-1] + OTHER_BYTE.get(raw[-1:], "")
        image.tile = [
            tile._replace(args=changed if isinstance(tile.args, str) else (changed, *(tile.args or ())[1:]))
            for tile in image.tile
        ]
        try:
            found = upright(image)
        except ValueError:
            # PIL has no such mode.
            return None
    return found.getchannel("G") if raw == GREY_ALPHA else found


def _raw_mode(image: Image) -> str:
    """How PIL unpacks a file's colours of 16 bits, as `RGB;16B`; empty for others."""
    tiles = getattr(image, "tile", None)
    args = tiles[0].args if tiles else None
    raw = args if isinstance(args, str) else args[0] if isinstance(args, tuple) and args else ""
    return raw if isinstance(raw, str) and ";16" in raw and raw[-1] in OTHER_BYTE else ""
