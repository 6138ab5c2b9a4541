"""Which way up an image is: the one place that decides it, for every way in which images are read.

It goes by PIL's reading of the metadata, `Image.getexif`: the EXIF orientation wherever the file has it, else that of
the XMP packet. Decoders that turn images by rules of their own are kept from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION = 0x0112
"""The EXIF tag that says how the camera was held."""

SIDEWAYS = (5, 6, 7, 8)
"""Orientations that exchange width and height."""

METADATA = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
"""Where PIL keeps what says the orientation."""


def orientation_of(image: Image) -> int:
    """1 to 8 as EXIF has it; 1, which is upright, where the metadata says nothing, something else, or is damaged."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:
        # Damaged metadata says nothing, but the picture itself is whole.
        return 1
    if isinstance(found, bytes):
        found = int.from_bytes(found[:1])
    return int(found) if found in range(1, 9) else 1


def upright(image: Image) -> Image:
    """The image as it is to be seen; without its orientation then, so that turning it again does nothing."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    image.load()  # PIL turns a TIFF by itself while it reads it.
    orientation = orientation_of(image)
    if orientation == 1:
        if hasattr(image, "tag_v2"):
            # PIL has gone by the tags of a TIFF, which a copy loses: it would be turned by what XMP says beside them.
            image.info.pop("xmp", None)
        return image
    turned = image.transpose(turns[orientation])
    for name in METADATA:
        turned.info.pop(name, None)
    return turned


def upright_size(image: Image) -> tuple[int, int]:
    """Width and height of an image that isn't read yet, as they are once it is upright."""
    turned_by_pil = getattr(image, "tag_v2", {}).get(ORIENTATION) in SIDEWAYS
    if turned_by_pil or orientation_of(image) not in SIDEWAYS:
        return image.size
    return image.height, image.width
