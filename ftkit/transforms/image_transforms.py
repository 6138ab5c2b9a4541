"""From pixels to the tensor that a network sees, with or without random changes.

Pixels are uint8 `(channels, height, width)`, as `input.pixels` reads them. Cropping, resizing and flipping are done on
them, and give what PIL would within one level of 255. What changes colours or angles is PIL's: it is quicker on single
images, and what augmentations were measured with. Or a transform only begins with an image, and `input.finish` does
the rest for whole batches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F  # noqa: N812

from ftkit.transforms.augmentation import Augmentation, Changes
from ftkit.transforms.device_transforms import (
    BODY,
    DeviceTransforms,
    RandomParams,
    draw_params,
    mean_colour,
    normalised,
)
from ftkit.transforms.preprocessing import Preprocessing

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

    @property
    def value_range(self) -> tuple[float, float] | None:
        """As `input.pixels.sample_pixels` takes it."""
        ...

    @property
    def device_transforms(self) -> DeviceTransforms:
        """What turns batches of what `begin` gives into what the network sees."""
        ...

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 `(channels, height, width)` as float32 `(channels, size, size)`, normalised."""
        ...

    def crop(self, pixels: Tensor) -> tuple[Tensor, RandomParams]:
        """The same pixels as uint8 `(channels, size, size)`, and what else `finish` needs to know of them."""
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

    @property
    def value_range(self) -> tuple[float, float] | None:
        return self.pre.value_range


@dataclass(frozen=True)
class _Evaluation(_Transform):
    @property
    def device_transforms(self) -> DeviceTransforms:
        return DeviceTransforms(self.pre)

    def __call__(self, pixels: Tensor) -> Tensor:
        body = normalised(self._resized(pixels), self.pre)
        if self.pre.fit != "pad":
            return body
        # A zero after normalisation is the mean colour, and nearer to it than 8 bits come.
        padded: Tensor = F.pad(body, _bars(body.shape[-1], body.shape[-2]), fill=0.0)
        return padded

    def crop(self, pixels: Tensor) -> tuple[Tensor, RandomParams]:
        body = self._resized(pixels)
        if self.pre.fit != "pad":
            return body, {}
        height, width = body.shape[-2:]
        bars = _bars(width, height)
        box = torch.tensor([bars[1], bars[0], height, width])
        return F.pad(body, bars), {BODY: box}

    def _resized(self, pixels: Tensor) -> Tensor:
        pre = self.pre
        if pre.fit == "stretch":
            return _resize(pixels, [pre.size, pre.size], pre)
        if pre.fit == "crop":
            cropped: Tensor = F.center_crop(_resize(_bounded(pixels), [pre.resize], pre), [pre.size])
            return cropped
        height, width = pixels.shape[-2:]
        factor = pre.size / max(height, width)
        return _resize(pixels, [max(1, round(side * factor)) for side in (height, width)], pre)


@dataclass(frozen=True)
class _Training(_Transform):
    """A crop and a flip, then the other changes of 8-bit images, then those of normalised tensors, each made once."""

    changes: Changes
    on_images: tuple[v2.Transform, ...] = field(repr=False)
    on_tensors: tuple[v2.Transform, ...] = field(repr=False)

    @property
    def device_transforms(self) -> DeviceTransforms:
        return DeviceTransforms(self.pre, self.changes)

    def __call__(self, pixels: Tensor) -> Tensor:
        pixels = self._random_crop(pixels)
        if self._is_flipped():
            pixels = pixels.flip(-1)
        if self.on_images:
            image = F.to_pil_image(pixels)
            for change in self.on_images:
                image = change(image)
            pixels = F.pil_to_tensor(image)
        tensor = normalised(pixels, self.pre)
        for change in self.on_tensors:
            tensor = change(tensor)
        return tensor

    def crop(self, pixels: Tensor) -> tuple[Tensor, RandomParams]:
        pixels = self._random_crop(pixels)
        params: RandomParams = {"flip": torch.tensor(self._is_flipped())} if self.changes.flip else {}
        for change in (*self.on_images, *self.on_tensors):
            params |= draw_params(change, pixels.shape)
        return pixels, params

    def _is_flipped(self) -> bool:
        return bool(self.changes.flip) and float(torch.rand(1)) < self.changes.flip

    def _random_crop(self, pixels: Tensor) -> Tensor:
        pre, changes = self.pre, self.changes
        height, width = pixels.shape[-2:]
        aspect = width / height if pre.fit == "stretch" else 1.0
        if pre.fit == "pad":
            pixels = F.pad(pixels, _bars(width, height), fill=mean_colour(pre))
        elif pre.fit == "crop" and changes.from_square:
            side = min(height, width)
            pixels = F.crop(pixels, *v2.RandomCrop.get_params(pixels, (side, side)))
        ratio = [bound * aspect for bound in changes.ratio]
        place = v2.RandomResizedCrop.get_params(pixels, list(changes.scale), ratio)
        # What resizes it is quicker on pixels without gaps between them.
        crop = F.crop(pixels, *place)[None].contiguous(memory_format=torch.channels_last)[0]
        return _resize(crop, [pre.size, pre.size], pre)


def _on_images(changes: Changes, pre: Preprocessing) -> tuple[v2.Transform, ...]:
    colours = {name: getattr(changes, name) for name in ("brightness", "contrast", "saturation", "hue")}
    fill = mean_colour(pre)
    made: list[v2.Transform] = []
    if changes.rotate:
        made.append(v2.RandomRotation(changes.rotate, InterpolationMode.BILINEAR, fill=fill))
    if any(colours.values()):
        made.append(v2.ColorJitter(**colours))
    if changes.trivial:
        made.append(v2.TrivialAugmentWide(fill=fill))
    return tuple(made)


def _on_tensors(changes: Changes) -> tuple[v2.Transform, ...]:
    # Its filling, 0, is the mean colour of what is normalised.
    return (v2.RandomErasing(changes.erase, changes.erase_scale),) if changes.erase else ()


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
