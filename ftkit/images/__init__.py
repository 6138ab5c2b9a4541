"""Image files read the way a viewer shows them: upright, and in the colours that they mean."""

from ftkit.images.formats import FORMATS, IMAGE_SUFFIXES, JPEG_SUFFIXES, Support, is_image, support
from ftkit.images.reading import (
    ORIENTATION,
    ImageFiles,
    UnreadableImage,
    decode_image,
    is_sane_size,
    open_image,
    open_with_format,
    sample_file,
    sample_name,
    with_channels,
)

__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "JPEG_SUFFIXES",
    "ORIENTATION",
    "ImageFiles",
    "Support",
    "UnreadableImage",
    "decode_image",
    "is_image",
    "is_sane_size",
    "open_image",
    "open_with_format",
    "sample_file",
    "sample_name",
    "support",
    "with_channels",
]
