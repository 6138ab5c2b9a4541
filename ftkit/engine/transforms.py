"""From a PIL image to the tensor that a network sees, with or without random changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F  # noqa: N812

from ftkit.images import with_channels
from ftkit.spec.preprocessing import Preprocessing

Transform = Callable[[Image], Tensor]
Augment = Literal["none", "light", "standard"]

LONGEST = 32
"""Images longer than this many times their width lose their ends: resized whole, they fill the memory."""


@dataclass(frozen=True)
class Crop:
    """How much a random crop may take away.

    Attributes:
        scale: Least and greatest part of the area that is kept.
        ratio: Least and greatest ratio of width to height.
        square: Take the part from a square as wide as the image's shorter side, at a random place: a part
            of 80 % doesn't fit into a 3:2 photograph, whose largest square is 67 % of it.
        flip: Mirror every second image.
    """

    scale: tuple[float, float]
    ratio: tuple[float, float]
    square: bool
    flip: bool


CROPS = {
    "light": Crop((0.8, 1.0), (0.9, 1.1), square=True, flip=False),
    "standard": Crop((0.35, 1.0), (3 / 4, 4 / 3), square=False, flip=True),
}


def evaluation(pre: Preprocessing) -> Transform:
    """The deterministic transform: an image of any PIL mode to float32 `(channels, size, size)`, normalised.

    With `fit="crop"` it is torchvision's own preset for its ImageNet weights. It can be pickled for workers.
    """
    return _Evaluation(pre)


def training(pre: Preprocessing, level: Augment) -> Transform:
    """The transform of training images; `none` is `evaluation`.

    All randomness comes from torch's default CPU generator, so that seeding it makes each image a function
    of the seed. Images that aren't square are fitted as in evaluation: a padded one is padded before it is
    cropped, and a stretched one is cropped in the same proportions.
    """
    return _Evaluation(pre) if level == "none" else _Training(pre, CROPS[level])


@dataclass(frozen=True)
class _Evaluation:
    pre: Preprocessing

    def __call__(self, image: Image) -> Tensor:
        pre = self.pre
        image = with_channels(image, pre.channels)
        if pre.fit == "stretch":
            return _normalised(_resize(image, pre.size, pre.size, pre), pre)
        if pre.fit == "crop":
            image = F.resize(_bounded(image), [pre.resize], _filter(pre), antialias=True)
            return _normalised(F.center_crop(image, [pre.size]), pre)
        factor = pre.size / max(image.size)
        width, height = (max(1, round(side * factor)) for side in image.size)
        # A zero after normalisation is the mean colour, and nearer to it than 8 bits come.
        body = _normalised(_resize(image, width, height, pre), pre)
        padded: Tensor = F.pad(body, _bars(width, height), fill=0.0)
        return padded


@dataclass(frozen=True)
class _Training:
    pre: Preprocessing
    crop: Crop

    def __call__(self, image: Image) -> Tensor:
        pre, crop = self.pre, self.crop
        image = with_channels(image, pre.channels)
        aspect = image.width / image.height if pre.fit == "stretch" else 1.0
        if pre.fit == "pad":
            image = F.pad(image, _bars(*image.size), fill=[round(255 * value) for value in pre.mean])
        elif pre.fit == "crop" and crop.square:
            image = v2.RandomCrop(min(image.size))(image)
        ratio = (crop.ratio[0] * aspect, crop.ratio[1] * aspect)
        image = v2.RandomResizedCrop(pre.size, crop.scale, ratio, _filter(pre), antialias=True)(image)
        return _normalised(v2.RandomHorizontalFlip()(image) if crop.flip else image, pre)


def _resize(image: Image, width: int, height: int, pre: Preprocessing) -> Image:
    resized: Image = F.resize(image, [height, width], _filter(pre), antialias=True)
    return resized


def _filter(pre: Preprocessing) -> InterpolationMode:
    return InterpolationMode(pre.interpolation)


def _bounded(image: Image) -> Image:
    longest = LONGEST * min(image.size)
    if max(image.size) <= longest:
        return image
    bounded: Image = F.center_crop(image, [min(image.height, longest), min(image.width, longest)])
    return bounded


def _bars(width: int, height: int) -> list[int]:
    """Left, top, right and bottom padding that makes a square."""
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    return [left, top, side - width - left, side - height - top]


def _normalised(image: Image, pre: Preprocessing) -> Tensor:
    pixels = F.pil_to_tensor(image).to(torch.float32).div_(255)
    normalised: Tensor = F.normalize(pixels, list(pre.mean), list(pre.std), inplace=True)
    return normalised
