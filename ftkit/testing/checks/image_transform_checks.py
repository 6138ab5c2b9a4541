"""The contract of an image transform: shape and type stay, and the result follows from the image and torch's seed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from ftkit.api import ImageTransform
from ftkit.testing.contract import require, require_frozen_dataclass, require_picklable
from ftkit.testing.randomness import seeded

if TYPE_CHECKING:
    from torch import Tensor

SIDES = (32, 45)
"""Sides of the images in pixels."""
DRAWS = 8
"""Calls with each image, with different seeds."""


def check_image_transform(transform: ImageTransform) -> None:
    """Check an image transform instance on grey and colour images.

    Raises:
        ContractError: The class isn't a frozen dataclass, or its instance can't be pickled; the result has another
            shape or type; the input is changed; or the result depends on more than the image and the state of torch's
            default generator.
    """
    require_frozen_dataclass(transform)
    copy = require_picklable(transform)
    for channels in (1, 3):
        for side in SIDES:
            for draw in range(DRAWS):
                _check_call(transform, copy, _image(channels, side, draw), draw)


def _check_call(transform: ImageTransform, copy: ImageTransform, image: Tensor, draw: int) -> None:
    import torch

    where = f"for an image {tuple(image.shape)}"
    before = image.clone()
    found = _apply(transform, image, draw, draw)
    require(torch.equal(image, before), f"{where} it changes its input", "work on a copy")
    require(isinstance(found, torch.Tensor), f"{where} it returns {type(found).__name__}, not a tensor")
    same = found.shape == image.shape and found.dtype == torch.uint8
    require(same, f"{where} it returns {found.dtype} {tuple(found.shape)}, not uint8 of the same shape")
    hint = "take random numbers from torch's default generator only"
    again = _apply(transform, image, draw, draw)
    require(torch.equal(again, found), f"{where} it returns another image with the same seed", hint)
    other = _apply(transform, image, draw, draw + 1000)
    require(torch.equal(other, found), f"{where} its result depends on Python's or NumPy's random numbers", hint)
    sent = _apply(copy, image, draw, draw)
    require(
        torch.equal(sent, found), f"{where} it returns another image after pickling", "keep its options in the fields"
    )


def _apply(transform: ImageTransform, image: Tensor, torch_seed: int, other_seed: int) -> Tensor:
    import numpy as np
    import torch

    with seeded(torch_seed):
        random.seed(other_seed)
        np.random.seed(other_seed)
        torch.manual_seed(torch_seed)
        return transform.apply(image)


def _image(channels: int, side: int, draw: int) -> Tensor:
    """Noise, or for two of the draws a black and a white image."""
    import torch

    if draw in (1, 2):
        return torch.full((channels, side, side), 255 * (draw - 1), dtype=torch.uint8)
    return torch.randint(
        0, 256, (channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(draw)
    )
