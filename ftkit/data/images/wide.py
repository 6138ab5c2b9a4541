"""Images with 16 bits per colour channel: PIL reads only the high bytes, this module reads the low bytes too."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from ftkit.data.images.orientation import upright

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

OTHER_BYTE = {"L": "B", "B": "L", "N": "B"}
"""Byte order of a raw mode -> the byte order with which PIL reads the low byte instead of the high one."""

GREY_ALPHA = "LA;16B"
"""Grey with alpha: PIL can't read its low bytes, but all of its bytes as an RGBA image."""


def wide_content(image: Image) -> bytes | None:
    """The file's bytes of an opened, undecoded image with 16 bits per colour channel; None for other images."""
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
    """The colours of a decoded, upright image, `(height, width, 3)`, 0 to 65535.

    The low bytes are zero if PIL can't read them or if the image was resized since.
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
    """PIL's raw mode of a file with 16 bits per colour channel, such as `RGB;16B`; empty for other files."""
    tiles = getattr(image, "tile", None)
    args = tiles[0].args if tiles else None
    raw = args if isinstance(args, str) else args[0] if isinstance(args, tuple) and args else ""
    return raw if isinstance(raw, str) and ";16" in raw and raw[-1] in OTHER_BYTE else ""
