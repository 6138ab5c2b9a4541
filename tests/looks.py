"""What a transform makes of an image."""

from __future__ import annotations

from PIL.Image import Image
from torch import Tensor

from ftkit.data.loading.pixels import pixels_of
from ftkit.transforms.pipeline import Transform


def seen(transform: Transform, image: Image) -> Tensor:
    """A PIL image as a network sees it after the transform, float32 `(channels, size, size)`."""
    return transform(pixels_of(image, transform.channels))
