"""From pixels to the tensor that a network sees, with or without random changes.

Pixels are uint8 `(channels, height, width)`, as `engine.pixels` reads them. Cropping, resizing and flipping are done on
them, and give what PIL would within one level of 255. What changes colours or angles is PIL's: it is quicker on single
images, and what augmentations were measured with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F  # noqa: N812

from ftkit.spec.augment import Augmentation, Changes
from ftkit.spec.preprocessing import Preprocessing

Change = Callable[[Any], Any]

LONGEST = 32
"""Images longer than this many times their width lose their ends: resized whole, they fill the memory."""

FILTERS = {"nearest": InterpolationMode.NEAREST_EXACT}
"""Of tensors, where they are called otherwise than PIL's."""
ONLY_PIL = ("lanczos",)
"""Filters that tensors don't have."""


class Transform(Protocol):
    """What a split's pixels go through; it can be pickled for workers."""

    @property
    def channels(self) -> int:
        """That the pixels must have."""
        ...

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 `(channels, height, width)` as float32 `(channels, size, size)`, normalised."""
        ...


def evaluation(pre: Preprocessing) -> Transform:
    """The deterministic transform; with `fit="crop"` it is torchvision's own preset for its ImageNet weights."""
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
class _Transform:
    pre: Preprocessing

    @property
    def channels(self) -> int:
        return self.pre.channels


@dataclass(frozen=True)
class _Evaluation(_Transform):
    def __call__(self, pixels: Tensor) -> Tensor:
        pre = self.pre
        if pre.fit == "stretch":
            return _normalised(_resize(pixels, [pre.size, pre.size], pre), pre)
        if pre.fit == "crop":
            return _normalised(F.center_crop(_resize(_bounded(pixels), [pre.resize], pre), [pre.size]), pre)
        height, width = pixels.shape[-2:]
        factor = pre.size / max(height, width)
        height, width = (max(1, round(side * factor)) for side in (height, width))
        # A zero after normalisation is the mean colour, and nearer to it than 8 bits come.
        body = _normalised(_resize(pixels, [height, width], pre), pre)
        padded: Tensor = F.pad(body, _bars(width, height), fill=0.0)
        return padded


@dataclass(frozen=True)
class _Training(_Transform):
    """A crop and a flip, then the other changes of 8-bit images, then those of normalised tensors, each made once."""

    changes: Changes
    on_images: tuple[Change, ...] = field(repr=False)
    on_tensors: tuple[Change, ...] = field(repr=False)

    def __call__(self, pixels: Tensor) -> Tensor:
        pixels = self._crop(pixels)
        if self.changes.flip and float(torch.rand(1)) < self.changes.flip:
            pixels = pixels.flip(-1)
        if self.on_images:
            image = F.to_pil_image(pixels)
            for change in self.on_images:
                image = change(image)
            pixels = F.pil_to_tensor(image)
        tensor = _normalised(pixels, self.pre)
        for change in self.on_tensors:
            tensor = change(tensor)
        return tensor

    def _crop(self, pixels: Tensor) -> Tensor:
        pre, changes = self.pre, self.changes
        height, width = pixels.shape[-2:]
        aspect = width / height if pre.fit == "stretch" else 1.0
        if pre.fit == "pad":
            pixels = F.pad(pixels, _bars(width, height), fill=_mean_colour(pre))
        elif pre.fit == "crop" and changes.from_square:
            side = min(height, width)
            pixels = F.crop(pixels, *v2.RandomCrop.get_params(pixels, (side, side)))
        ratio = [bound * aspect for bound in changes.ratio]
        place = v2.RandomResizedCrop.get_params(pixels, list(changes.scale), ratio)
        # What resizes it is quicker on pixels without gaps between them.
        crop = F.crop(pixels, *place)[None].contiguous(memory_format=torch.channels_last)[0]
        return _resize(crop, [pre.size, pre.size], pre)


def _on_images(changes: Changes, pre: Preprocessing) -> tuple[Change, ...]:
    colours = {name: getattr(changes, name) for name in ("brightness", "contrast", "saturation", "hue")}
    fill = _mean_colour(pre)
    made: list[Change] = []
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


def _resize(pixels: Tensor, size: list[int], pre: Preprocessing) -> Tensor:
    """To `[height, width]`, or with the shorter side `[side]`."""
    mode = FILTERS.get(pre.interpolation) or InterpolationMode(pre.interpolation)
    if pre.interpolation in ONLY_PIL:
        resized: Tensor = F.pil_to_tensor(F.resize(F.to_pil_image(pixels), size, mode))
    else:
        resized = F.resize(pixels, size, mode, antialias=True)
    return resized


def _bounded(pixels: Tensor) -> Tensor:
    height, width = pixels.shape[-2:]
    longest = LONGEST * min(height, width)
    if max(height, width) <= longest:
        return pixels
    bounded: Tensor = F.center_crop(pixels, [min(height, longest), min(width, longest)])
    return bounded


def _bars(width: int, height: int) -> list[int]:
    """Left, top, right and bottom padding that makes a square."""
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    return [left, top, side - width - left, side - height - top]


def _normalised(pixels: Tensor, pre: Preprocessing) -> Tensor:
    scale, shift = _constants(pre)
    return pixels.to(torch.float32).mul_(scale).add_(shift)


@cache
def _constants(pre: Preprocessing) -> tuple[Tensor, Tensor]:
    """What makes `(pixels / 255 - mean) / std` of pixels: `pixels * scale + shift`."""
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (pre.mean, pre.std))
    return (1 / (255 * std)).float(), (-mean / std).float()
