"""Random changes of a whole batch at once, where the network computes.

Images are float32 `(b, channels, size, size)`, from 0 to 255, or uint8 where a function says so. What differs from
image to image are tensors of `(b,)` on the same device, so that nothing is read back and each change is a few kernels
for the whole batch. Each gives what PIL gives for a single image, within a few levels.
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
"""Parts of red, green and blue in brightness (ITU-R 601)."""
BLUR = tuple(weight / 13 for weight in (1, 1, 1, 1, 5, 1, 1, 1, 1))
"""Of a pixel and its neighbours, row by row, as PIL smooths."""


@cache
def constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A number for each channel, float32 `(channels, 1, 1)`; to put them on a GPU anew each time would wait for it."""
    return torch.tensor(values, device=device)[:, None, None]


def flipped(images: Tensor, which: Tensor) -> Tensor:
    """Mirror images of some, of any type."""
    return torch.where(_each(which), images.flip(-1), images)


def turned(images: Tensor, degrees: Tensor, fill: Sequence[int]) -> Tensor:
    """Rotated anticlockwise about the centre, bilinearly; corners take a colour."""
    return moved(images, rotation(degrees), fill, "bilinear")


def rotation(degrees: Tensor) -> Tensor:
    """Where the pixels of images that are rotated anticlockwise come from: `(b, 2, 3)`, as `moved` takes it."""
    angle = torch.deg2rad(degrees)
    matrix = identity(angle)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
    matrix[:, 0, 1], matrix[:, 1, 0] = -angle.sin(), angle.sin()
    return matrix


def identity(like: Tensor) -> Tensor:
    """Matrices `(b, 2, 3)` that leave images where they are."""
    return torch.eye(2, 3, device=like.device).repeat(len(like), 1, 1)


def moved(images: Tensor, matrices: Tensor, fill: Sequence[int], mode: str) -> Tensor:
    """Each pixel from the place that a matrix gives for its own.

    Args:
        matrices: float32 `(b, 2, 3)`, from places in the result to places in the image, both from -1 to 1.
        fill: For what comes from outside, of each channel.
    """
    grid = affine_grid(matrices, list(images.shape), align_corners=False)
    found = grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)
    inside = (grid.abs() <= 1).all(dim=-1)[:, None]
    return torch.where(inside, found, constants(tuple(fill), images.device))


def blended(images: Tensor, others: Tensor, parts: Tensor) -> Tensor:
    """So much of each image and the rest of another, within the levels that there are; parts may pass 1."""
    return torch.lerp(others, images, _each(parts)).clamp(0, TOP)


def black(images: Tensor) -> Tensor:
    """Blended with it, brightness changes."""
    return torch.zeros_like(images)


def grey(images: Tensor) -> Tensor:
    """Blended with it, saturation changes."""
    if images.shape[1] == 1:
        return images
    return (images * constants(GREY, images.device)).sum(dim=1, keepdim=True).expand_as(images)


def even(images: Tensor) -> Tensor:
    """The mean brightness everywhere; blended with it, contrast changes."""
    return grey(images).mean(dim=(1, 2, 3), keepdim=True).round().expand_as(images)


def blurred(images: Tensor) -> Tensor:
    """Blended with it, sharpness changes; the outermost pixels stay."""
    if images.shape[-1] < 3:
        return images
    weights = constants(BLUR, images.device).view(1, 1, 3, 3).expand(images.shape[1], 1, 3, 3)
    result = images.clone()
    result[..., 1:-1, 1:-1] = conv2d(images, weights, groups=images.shape[1]).round()
    return result


def hue_turned(images: Tensor, turns: Tensor) -> Tensor:
    """Colours moved around the circle; what is grey stays. Formulas are those between RGB and HSV."""
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


def posterized(images: Tensor, bits: Tensor) -> Tensor:
    """With so many of their upper bits."""
    steps = _each(2.0 ** (8 - bits))
    return (images / steps).floor() * steps


def solarized(images: Tensor, least: Tensor) -> Tensor:
    """What is as bright as that, or brighter, is turned into its negative."""
    return torch.where(images >= _each(least), TOP - images, images)


def stretched(pixels: Tensor) -> Tensor:
    """Each channel of uint8 images from black to white."""
    result: Tensor = F.autocontrast(pixels)
    return result


def equalized(pixels: Tensor) -> Tensor:
    """uint8 images with each level of each channel about as often as any other."""
    result: Tensor = F.equalize(pixels)
    return result


def within(box: Tensor, size: int) -> Tensor:
    """Which pixels lie in boxes of int64 `(b, 4)`, top, left, height and width: bool `(b, 1, size, size)`."""
    top, left, height, width = box[:, :, None].unbind(dim=1)
    place = torch.arange(size, device=box.device)
    rows, columns = (place >= top) & (place < top + height), (place >= left) & (place < left + width)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _each(values: Tensor) -> Tensor:
    return values[:, None, None, None]
