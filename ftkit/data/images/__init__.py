"""Image files read the way a viewer shows them: upright, and in the colours that they mean."""

from ftkit.data.images.colors import is_srgb, profile_fault, with_channels
from ftkit.data.images.depth import DEPTH, FULL, Extremes, Range, extremes, guessed_range
from ftkit.data.images.formats import FORMATS, IMAGE_SUFFIXES, JPEG_SUFFIXES, Support, is_image, support
from ftkit.data.images.orientation import ORIENTATION, orientation_of, upright_size
from ftkit.data.images.reading import (
    RULES,
    ImageFiles,
    ReadWhole,
    UnreadableImage,
    as_seen,
    decode_image,
    is_sane_size,
    open_header,
    open_image,
    open_with_format,
    pixel_limit,
    sample_file,
    sample_name,
)

__all__ = [
    "DEPTH",
    "FORMATS",
    "FULL",
    "IMAGE_SUFFIXES",
    "JPEG_SUFFIXES",
    "ORIENTATION",
    "RULES",
    "Extremes",
    "ImageFiles",
    "Range",
    "ReadWhole",
    "Support",
    "UnreadableImage",
    "as_seen",
    "decode_image",
    "extremes",
    "guessed_range",
    "is_image",
    "is_sane_size",
    "is_srgb",
    "open_header",
    "open_image",
    "open_with_format",
    "orientation_of",
    "pixel_limit",
    "profile_fault",
    "sample_file",
    "sample_name",
    "support",
    "upright_size",
    "with_channels",
]
