"""Measurements of one image: the format and metadata of its file, and the levels of its pixels."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ftkit.data.images import extremes, is_srgb, open_header, orientation_of, with_channels
from ftkit.data.scan.content_digests import pixel_digest
from ftkit.data.scan.duplicates import perceptual_hash
from ftkit.data.scan.image_scan import scan_and_decode
from ftkit.data.scan.scan_table import ScanResult

if TYPE_CHECKING:
    from PIL.Image import Image

NO_PROFILE, SRGB_PROFILE, OTHER_PROFILE = 0, 1, 2
"""No colour profile, one that changes nothing, and one that is converted to sRGB."""

LEVELS = np.arange(256)
LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the brightness (ITU-R BT.601, as PIL's conversion to grey)."""


class Measures(NamedTuple):
    """Measurements of a readable image.

    Attributes:
        mode: PIL's mode of the file, such as `RGB`.
        kind: Format of the content in PIL's terms, such as `JPEG`; empty for an image that isn't a file.
        width, height: In pixels, upright.
        orientation: EXIF orientation, 1 to 8.
        profile: `NO_PROFILE`, `SRGB_PROFILE` or `OTHER_PROFILE`.
        size: Bytes of the file; 0 for an image that isn't a file.
        means, squares: Mean and mean square of red, green and blue, from 0 to 1, after conversion to sRGB. Images of
            more than 8 bits are scaled by their own range if they declare none.
        contrast: Standard deviation of the grey levels, from 0 to 1.
    """

    mode: str
    kind: str
    width: int
    height: int
    orientation: int
    profile: int
    size: int
    means: tuple[float, float, float]
    squares: tuple[float, float, float]
    contrast: float


def measure_file(file: str) -> tuple[ScanResult, Measures | None]:
    """The scan result and the measurements of a file; no measurements for an unreadable one."""
    result, image = scan_and_decode(file)
    if image is None:
        return result, None
    try:
        with open_header(file) as header:
            mode, kind, orientation = header.mode, header.format or "", orientation_of(header)
        size = os.stat(file).st_size  # noqa: PTH116 - a Path takes three times as long
    except Exception as error:  # The file was replaced meanwhile; decoders raise any exception.
        return ScanResult(error=f"can't be read: {error or type(error).__name__}"), None
    return result, _measures(image, mode, kind, orientation, size)


def measure_image(image: Image) -> tuple[ScanResult, Measures]:
    """The same for an image that isn't a file, decoded and upright; its content is that of its pixels."""
    result = ScanResult(content=pixel_digest(image), perceptual_hash=perceptual_hash(image))
    return result, _measures(image, image.mode, "", 1, 0)


def _measures(image: Image, mode: str, kind: str, orientation: int, size: int) -> Measures:
    profile = image.info.get("icc_profile")
    used = NO_PROFILE if not profile else SRGB_PROFILE if is_srgb(image) else OTHER_PROFILE
    own = extremes(image)
    rgb = with_channels(image, 3, None if own is None else (own.low, max(own.high, own.low + 1)))
    pixels = image.width * image.height
    shares = np.array(rgb.histogram(), dtype=np.float64).reshape(3, 256) / pixels
    means, squares = shares @ LEVELS / 255, shares @ LEVELS**2 / 255**2
    grey = np.array(rgb.convert("L").histogram(), dtype=np.float64) / pixels
    variance = float(grey @ LEVELS**2 - (grey @ LEVELS) ** 2)
    return Measures(
        mode,
        kind,
        image.width,
        image.height,
        orientation,
        used,
        size,
        tuple(means.tolist()),
        tuple(squares.tolist()),
        math.sqrt(max(variance, 0.0)) / 255,
    )
