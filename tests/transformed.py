"""Network inputs of images."""

from __future__ import annotations

from pathlib import Path

from PIL.Image import Image
from torch import Tensor

from ftkit.api import Preprocessing, open_image
from ftkit.data.loading.pixels import pixels_of
from ftkit.transforms.pipeline import Transform, evaluation


def transformed(transform: Transform, image: Image) -> Tensor:
    """The network's input for a PIL image, float32 `(channels, size, size)`."""
    return transform(pixels_of(image, transform.channels))


def evaluation_input(preprocessing: Preprocessing, path: Path | str) -> Tensor:
    """The network's input for an image file in evaluation, float32 `(channels, size, size)`."""
    return transformed(evaluation(preprocessing), open_image(path))
