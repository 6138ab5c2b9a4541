"""Reading image files as a viewer shows them: upright, and with colour profiles applied."""

from ftkit.data.images.colors import is_grey, is_srgb, profile_problem, with_channels
from ftkit.data.images.depth import DEPTH, FULL, Extremes, Range, extremes, guessed_range
from ftkit.data.images.formats import FORMATS, IMAGE_SUFFIXES, JPEG_SUFFIXES, Support, is_image, support
from ftkit.data.images.image_files import ImageFiles, SampleFiles, sample_file, sample_name
from ftkit.data.images.orientation import ORIENTATION, orientation_of, upright_size
from ftkit.data.images.reading import (
    RULES,
    ReadWhole,
    UnreadableImage,
    decode_image,
    is_within_limit,
    load_upright,
    open_header,
    open_image,
    open_with_format,
    pixel_limit,
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
    "SampleFiles",
    "Support",
    "UnreadableImage",
    "decode_image",
    "extremes",
    "guessed_range",
    "is_grey",
    "is_image",
    "is_srgb",
    "is_within_limit",
    "load_upright",
    "open_header",
    "open_image",
    "open_with_format",
    "orientation_of",
    "pixel_limit",
    "profile_problem",
    "sample_file",
    "sample_name",
    "support",
    "upright_size",
    "with_channels",
]
