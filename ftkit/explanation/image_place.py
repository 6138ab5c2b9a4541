"""Where in an image a network's input comes from, and maps of the input as maps of the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ftkit.transforms.pipeline import LONGEST
from ftkit.transforms.preprocessing import Preprocessing


@dataclass(frozen=True)
class _Axis:
    """A side of an image: a place x in it is the place `scale * x + offset` of the input, whose side is 1."""

    scale: float
    offset: float

    def places(self, length: int) -> Tensor:
        """Of the middle of each pixel, float32 `(length,)`."""
        return (torch.arange(length) + 0.5) * self.scale + self.offset


def map_on_image(values: Tensor, height: int, width: int, preprocessing: Preprocessing) -> Tensor:
    """A map of a network's input as a map of the image, interpolated bilinearly.

    Args:
        values: `(grid, grid)`, 0 or more.

    Returns:
        float32 `(height, width)` with a largest value of 1, or 0 everywhere. It is 0 where the image is cut off before
        the network sees it.
    """
    vertical, horizontal = _axes(height, width, preprocessing)
    rows, columns = vertical.places(height), horizontal.places(width)
    y, x = torch.meshgrid(2 * rows - 1, 2 * columns - 1, indexing="ij")
    places = torch.stack([x, y], dim=-1)[None]
    found = grid_sample(values[None, None].float(), places, padding_mode="border", align_corners=False)[0, 0]
    seen = (y.abs() <= 1) & (x.abs() <= 1)
    found = found * seen
    largest = found.max()
    return found / largest if largest > 0 else found


def _axes(height: int, width: int, preprocessing: Preprocessing) -> tuple[_Axis, _Axis]:
    """The vertical and the horizontal axis of an image, as `transforms.pipeline.evaluation` fits it."""
    size, shorter, longer = preprocessing.size, min(height, width), max(height, width)
    if preprocessing.fit == "stretch":
        return _Axis(1 / height, 0.0), _Axis(1 / width, 0.0)
    if preprocessing.fit == "pad":
        return _padded(height, longer, size), _padded(width, longer, size)
    bounded = min(longer, LONGEST * shorter)
    whole = int(preprocessing.resize * bounded / shorter)
    if height <= width:
        return _cropped(height, shorter, preprocessing.resize, size), _cropped(width, bounded, whole, size)
    return _cropped(height, bounded, whole, size), _cropped(width, shorter, preprocessing.resize, size)


def _cropped(side: int, kept: int, resized: int, size: int) -> _Axis:
    """A side whose middle `kept` pixels are resized; the middle `size` pixels of the result are taken."""
    scale = resized / kept / size
    cut, left = round((side - kept) / 2), round((resized - size) / 2)
    return _Axis(scale, -cut * scale - left / size)


def _padded(side: int, longer: int, size: int) -> _Axis:
    body = max(1, round(side * size / longer))
    return _Axis(body / side / size, (size - body) // 2 / size)
