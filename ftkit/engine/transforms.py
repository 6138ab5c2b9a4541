"""From a PIL image to the tensor that a network sees, with or without random changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F  # noqa: N812

from ftkit.images import with_channels
from ftkit.spec.augment import Augmentation, Changes
from ftkit.spec.preprocessing import Preprocessing

Transform = Callable[[Image], Tensor]
Change = Callable[[Any], Any]

LONGEST = 32
"""Images longer than this many times their width lose their ends: resized whole, they fill the memory."""


def evaluation(pre: Preprocessing) -> Transform:
    """The deterministic transform: an image of any PIL mode to float32 `(channels, size, size)`, normalised.

    With `fit="crop"` it is torchvision's own preset for its ImageNet weights. It can be pickled for workers.
    """
    return _Evaluation(pre)


def training(pre: Preprocessing, augmentation: Augmentation) -> Transform:
    """The transform of training images; where nothing is to change, it is `evaluation`.

    All randomness comes from torch's default CPU generator, so that seeding it makes each image a function
    of the seed. Images that aren't square are fitted as in evaluation: a padded one is padded before it is
    cropped, and a stretched one is cropped in the same proportions.
    """
    if not isinstance(augmentation, Changes):
        return _Evaluation(pre)
    return _Training(pre, augmentation, _on_images(augmentation, pre), _on_tensors(augmentation))


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
    """A crop, then the changes of 8-bit images, then those of normalised tensors, each made once."""

    pre: Preprocessing
    changes: Changes
    on_images: tuple[Change, ...]
    on_tensors: tuple[Change, ...]

    def __call__(self, image: Image) -> Tensor:
        image = self._crop(with_channels(image, self.pre.channels))
        for change in self.on_images:
            image = change(image)
        tensor = _normalised(image, self.pre)
        for change in self.on_tensors:
            tensor = change(tensor)
        return tensor

    def _crop(self, image: Image) -> Image:
        pre, changes = self.pre, self.changes
        aspect = image.width / image.height if pre.fit == "stretch" else 1.0
        if pre.fit == "pad":
            image = F.pad(image, _bars(*image.size), fill=_mean_colour(pre))
        elif pre.fit == "crop" and changes.from_square:
            side = min(image.size)
            image = F.crop(image, *v2.RandomCrop.get_params(image, (side, side)))
        ratio = [bound * aspect for bound in changes.ratio]
        place = v2.RandomResizedCrop.get_params(image, list(changes.scale), ratio)
        cropped: Image = F.resized_crop(image, *place, [pre.size, pre.size], _filter(pre), antialias=True)
        return cropped


def _on_images(changes: Changes, pre: Preprocessing) -> tuple[Change, ...]:
    colours = {name: getattr(changes, name) for name in ("brightness", "contrast", "saturation", "hue")}
    fill = _mean_colour(pre)
    made: list[Change] = []
    if changes.flip:
        made.append(v2.RandomHorizontalFlip(changes.flip))
    if changes.rotate:
        made.append(v2.RandomRotation(changes.rotate, InterpolationMode.BILINEAR, fill=fill))
    if any(colours.values()):
        made.append(v2.ColorJitter(**colours))
    if changes.trivial:
        made.append(v2.TrivialAugmentWide(fill=fill))
    return tuple(made)


def _on_tensors(changes: Changes) -> tuple[Change, ...]:
    # Its filling, 0, is the mean colour of what is normalised.
    return (v2.RandomErasing(changes.erase, changes.erase_scale),) if changes.erase else ()


def _mean_colour(pre: Preprocessing) -> list[int]:
    return [round(255 * value) for value in pre.mean]


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
