"""A heat map drawn over its image."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
from numpy.typing import NDArray

STRONGEST = 0.7
"""Opacity of the colour where the map is 1; where it is 0 the image shows as it is."""
COLOURS = np.array([(60, 20, 120), (180, 30, 110), (235, 90, 40), (250, 170, 30), (252, 250, 150)], dtype=np.float32)
"""From low to high; the lightness rises, so that the order shows without colour vision too."""
QUALITY = 90


def overlay(image: NDArray[np.uint8], values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image with the map in colour, more opaque where it is higher, uint8 `(height, width, 3)`.

    Args:
        image: uint8 `(height, width, 3)`.
        values: From 0 to 1, float32 `(height, width)`.
    """
    steps = np.linspace(0, 1, len(COLOURS))
    colours = np.stack([np.interp(values, steps, COLOURS[:, channel]) for channel in range(3)], axis=-1)
    share = STRONGEST * values[..., None]
    mixed: NDArray[np.uint8] = (image * (1 - share) + colours * share).round().astype(np.uint8)
    return mixed


def overlay_jpeg(image: NDArray[np.uint8], values: NDArray[np.float32]) -> bytes:
    """The content of a JPEG file of `overlay`."""
    file = io.BytesIO()
    PIL.Image.fromarray(overlay(image, values)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
