"""Operations on a whole batch of images, on the device of the network.

Images are float32 `(b, channels, size, size)` from 0 to 255, or uint8 where a function says so. Parameters that differ
between images are tensors of `(b,)` on the same device, so nothing is read back and each operation is a few kernels for
the whole batch. Each computes what PIL computes for a single image, within a few levels of 255.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample
from torchvision.transforms.v2 import functional as F  # noqa: N812

TOP = 255.0
GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in the luminance (ITU-R 601)."""
BLUR = tuple(weight / 13 for weight in (1, 1, 1, 1, 5, 1, 1, 1, 1))
"""PIL's smoothing kernel, 3x3, row by row."""


@cache
def constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A number for each channel, float32 `(channels, 1, 1)`, cached: each copy to a GPU would wait for it."""
    return torch.tensor(values, device=device)[:, None, None]


def flip(images: Tensor, which: Tensor) -> Tensor:
    """Images of any type, with the selected ones flipped horizontally."""
    return torch.where(_each(which), images.flip(-1), images)


def rotate(images: Tensor, degrees: Tensor, fill: Sequence[int]) -> Tensor:
    """Images rotated anticlockwise about the centre, bilinearly; corners are filled with a colour."""
    return resample(images, rotation(degrees), fill, "bilinear")


def rotation(degrees: Tensor) -> Tensor:
    """Matrices `(b, 2, 3)` for `resample` that rotate anticlockwise."""
    angle = torch.deg2rad(degrees)
    matrix = identity(angle)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
    matrix[:, 0, 1], matrix[:, 1, 0] = -angle.sin(), angle.sin()
    return matrix


def identity(like: Tensor) -> Tensor:
    """Matrices `(b, 2, 3)` that change nothing."""
    return torch.eye(2, 3, device=like.device).repeat(len(like), 1, 1)


def resample(images: Tensor, matrices: Tensor, fill: Sequence[int], mode: str) -> Tensor:
    """Images under affine transforms.

    Args:
        matrices: float32 `(b, 2, 3)`, from coordinates in the result to coordinates in the image, both from -1 to 1.
        fill: Colour of what lies outside the image, a value for each channel.
    """
    grid = affine_grid(matrices, list(images.shape), align_corners=False)
    found = grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)
    inside = (grid.abs() <= 1).all(dim=-1)[:, None]
    return torch.where(inside, found, constants(tuple(fill), images.device))


def blend(images: Tensor, others: Tensor, parts: Tensor) -> Tensor:
    """`parts * images + (1 - parts) * others`, clamped to 0 to 255; parts may exceed 1."""
    return torch.lerp(others, images, _each(parts)).clamp(0, TOP)


def black(images: Tensor) -> Tensor:
    """Black images; blending with them changes the brightness."""
    return torch.zeros_like(images)


def grey(images: Tensor) -> Tensor:
    """Grey images; blending with them changes the saturation."""
    if images.shape[1] == 1:
        return images
    return (images * constants(GREY, images.device)).sum(dim=1, keepdim=True).expand_as(images)


def mean_grey(images: Tensor) -> Tensor:
    """The mean luminance everywhere; blending with it changes the contrast."""
    return grey(images).mean(dim=(1, 2, 3), keepdim=True).round().expand_as(images)


def blur(images: Tensor) -> Tensor:
    """Smoothed images, except the outermost pixels; blending with them changes the sharpness."""
    if images.shape[-1] < 3:
        return images
    weights = constants(BLUR, images.device).view(1, 1, 3, 3).expand(images.shape[1], 1, 3, 3)
    result = images.clone()
    result[..., 1:-1, 1:-1] = conv2d(images, weights, groups=images.shape[1]).round()
    return result


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Images with the hue shifted by turns of the colour circle, by the formulas between RGB and HSV."""
    if images.shape[1] == 1:
        return images
    value, at = images.max(dim=1)
    spread = value - images.amin(dim=1)
    divisor = spread.clamp(min=1e-6)
    red, green, blue = images.unbind(dim=1)
    ahead = torch.stack([green - blue, blue - red, red - green], dim=1)
    sextant = ahead.gather(1, at[:, None])[:, 0] / divisor + 2 * at + 6 * turns[:, None, None]
    k = (sextant[:, None] + constants((5.0, 3.0, 1.0), images.device)).remainder(6)
    return value[:, None] - spread[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Images with only their upper `bits` bits."""
    steps = _each(2.0 ** (8 - bits))
    return (images / steps).floor() * steps


def solarize(images: Tensor, least: Tensor) -> Tensor:
    """Images with values of `least` or more inverted."""
    return torch.where(images >= _each(least), TOP - images, images)


def autocontrast(pixels: Tensor) -> Tensor:
    """uint8 images with each channel stretched from 0 to 255."""
    result: Tensor = F.autocontrast(pixels)
    return result


def equalize(pixels: Tensor) -> Tensor:
    """uint8 images with equalised histograms."""
    result: Tensor = F.equalize(pixels)
    return result


def inside_boxes(box: Tensor, size: int) -> Tensor:
    """Which pixels lie in boxes, bool `(b, 1, size, size)`; a box is top, left, height and width, int64 `(b, 4)`."""
    top, left, height, width = box[:, :, None].unbind(dim=1)
    place = torch.arange(size, device=box.device)
    rows, columns = (place >= top) & (place < top + height), (place >= left) & (place < left + width)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _each(values: Tensor) -> Tensor:
    return values[:, None, None, None]
