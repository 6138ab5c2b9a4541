"""Applies a transform to a PIL image."""

from __future__ import annotations

from PIL.Image import Image
from torch import Tensor

from ftkit.data.loading.pixels import pixels_of
from ftkit.transforms.pipeline import Transform


def transformed(transform: Transform, image: Image) -> Tensor:
    """The network's input for a PIL image, float32 `(channels, size, size)`."""
    return transform(pixels_of(image, transform.channels))
