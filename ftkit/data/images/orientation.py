"""The orientation of an image, in one place for all readers.

It is that of PIL's `Image.getexif`: the EXIF orientation if the file has one, else that of the XMP packet. Decoders
that would rotate images by their own rules don't get the metadata.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION = 0x0112
"""The EXIF tag of the orientation."""

SIDEWAYS = (5, 6, 7, 8)
"""Orientations that swap width and height."""

METADATA = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
"""Keys of `Image.info` that may contain the orientation."""


def orientation_of(image: Image) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, if the metadata is missing, invalid or damaged."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:
        # The metadata is damaged, but the pixels may be fine.
        return 1
    if isinstance(found, bytes):
        found = int.from_bytes(found[:1])
    return int(found) if found in range(1, 9) else 1


def upright(image: Image) -> Image:
    """Rotate the image upright and remove its orientation, so that a second call has no effect."""
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
    image.load()  # PIL rotates TIFFs while it reads them.
    orientation = orientation_of(image)
    if orientation == 1:
        if hasattr(image, "tag_v2"):
            # PIL has applied the TIFF tag, but a copy of the image would be rotated again by its XMP packet.
            image.info.pop("xmp", None)
        return image
    turned = image.transpose(turns[orientation])
    for name in METADATA:
        turned.info.pop(name, None)
    return turned


def upright_size(image: Image) -> tuple[int, int]:
    """Width and height, once upright, of an image that isn't decoded yet."""
    turned_by_pil = getattr(image, "tag_v2", {}).get(ORIENTATION) in SIDEWAYS
    if turned_by_pil or orientation_of(image) not in SIDEWAYS:
        return image.size
    return image.height, image.width
