"""From pixels to the tensor that a network takes, with or without random changes.

Pixels are uint8 `(channels, height, width)`, as `data.loading.pixels` reads them. They are cropped, resized and flipped
as tensors, within one level of 255 of PIL's result. Changes of colour and angle use PIL, which is faster for single
images. On a GPU the workers only crop, and `transforms.device_transforms` does the rest for whole batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F  # noqa: N812

from ftkit.plugin_errors import PluginError, plugin_boundary
from ftkit.transforms.augmentation import Augmentation, Changes
from ftkit.transforms.device_transforms import (
    BODY,
    DeviceTransforms,
    RandomParams,
    draw_params,
    mean_colour,
    normalise,
)
from ftkit.transforms.preprocessing import Preprocessing

if TYPE_CHECKING:
    from ftkit.parts.random_transforms import ImageTransform

LONGEST = 32
"""The ends of images longer than this many times their width are cut off: resized whole, they would fill the memory."""

FILTERS = {"nearest": InterpolationMode.NEAREST_EXACT}
"""Filters with another name for tensors than for PIL."""
ONLY_PIL = ("lanczos",)
"""Filters that tensors don't have."""


class Transform(Protocol):
    """What the pixels of a split go through; it can be pickled for workers."""

    @property
    def channels(self) -> int:
        """Channels that the pixels must have."""
        ...

    @property
    def value_range(self) -> tuple[float, float] | None:
        """As `data.loading.pixels.sample_pixels` takes it."""
        ...

    @property
    def device_transforms(self) -> DeviceTransforms:
        """The part that runs on batches after `crop`."""
        ...

    def __call__(self, pixels: Tensor) -> Tensor:
        """The normalised image, float32 `(channels, size, size)`, of uint8 pixels `(channels, height, width)`."""
        ...

    def crop(self, pixels: Tensor) -> tuple[Tensor, RandomParams]:
        """The cropped image, uint8 `(channels, size, size)`, and the random numbers that `device_transforms` needs."""
        ...


def evaluation(preprocessing: Preprocessing) -> Transform:
    """The deterministic transform; with `fit="crop"` it is torchvision's preset for its ImageNet weights."""
    return _Evaluation(preprocessing)


def training(
    preprocessing: Preprocessing, augmentation: Augmentation, image_transforms: Sequence[ImageTransform] = ()
) -> Transform:
    """The transform of training images; without random changes it is `evaluation`.

    All random numbers come from torch's default CPU generator, so seeding it makes each image a function of the seed.
    Images that aren't square are fitted as in evaluation: a padded one is padded before the crop, and a stretched one
    is cropped in the same proportions.
    """
    every = tuple(image_transforms)
    if isinstance(augmentation, Changes):
        on_images, on_tensors = _on_images(augmentation, preprocessing), _on_tensors(augmentation)
        return _Training(preprocessing, every, augmentation, on_images, on_tensors)
    return _Transformed(preprocessing, every) if every else _Evaluation(preprocessing)


@dataclass(frozen=True)
class _Transform:
    preprocessing: Preprocessing

    @property
    def channels(self) -> int:
        return self.preprocessing.channels

    @property
    def value_range(self) -> tuple[float, float] | None:
        return self.preprocessing.value_range

    @property
    def device_transforms(self) -> DeviceTransforms:
        return DeviceTransforms(self.preprocessing)


@dataclass(frozen=True)
class _Evaluation(_Transform):
    def __call__(self, pixels: Tensor) -> Tensor:
        body = normalise(_fitted(pixels, self.preprocessing), self.preprocessing)
        if self.preprocessing.fit != "pad":
            return body
        # After normalisation zero is the mean colour, more exactly than any 8-bit value.
        padded: Tensor = F.pad(body, _bars(body.shape[-1], body.shape[-2]), fill=0.0)
        return padded

    def crop(self, pixels: Tensor) -> tuple[Tensor, RandomParams]:
        body = _fitted(pixels, self.preprocessing)
        if self.preprocessing.fit != "pad":
            return body, {}
        height, width = body.shape[-2:]
        bars = _bars(width, height)
        box = torch.tensor([bars[1], bars[0], height, width])
        return F.pad(body, bars), {BODY: box}


@dataclass(frozen=True)
class _Transformed(_Transform):
    """Fitted as in evaluation, then changed by image transforms."""

    image_transforms: tuple[ImageTransform, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        return normalise(self.crop(pixels)[0], self.preprocessing)

    def crop(self, pixels: Tensor) -> tuple[Tensor, RandomParams]:
        body = _fitted(pixels, self.preprocessing)
        if self.preprocessing.fit == "pad":
            body = F.pad(body, _bars(body.shape[-1], body.shape[-2]), fill=mean_colour(self.preprocessing))
        return _changed(body, self.image_transforms), {}


@dataclass(frozen=True)
class _Training(_Transform):
    """A random crop, image transforms, a flip, then changes of 8-bit images, then those of normalised tensors."""

    image_transforms: tuple[ImageTransform, ...]
    changes: Changes
    on_images: tuple[v2.Transform, ...] = field(repr=False)
    on_tensors: tuple[v2.Transform, ...] = field(repr=False)

    def __call__(self, pixels: Tensor) -> Tensor:
        pixels = _changed(self._random_crop(pixels), self.image_transforms)
        if self._is_flipped():
            pixels = pixels.flip(-1)
        if self.on_images:
            image = F.to_pil_image(pixels)
            for change in self.on_images:
                image = change(image)
            pixels = F.pil_to_tensor(image)
        tensor = normalise(pixels, self.preprocessing)
        for change in self.on_tensors:
            tensor = change(tensor)
        return tensor

    def crop(self, pixels: Tensor) -> tuple[Tensor, RandomParams]:
        pixels = _changed(self._random_crop(pixels), self.image_transforms)
        params: RandomParams = {"flip": torch.tensor(self._is_flipped())} if self.changes.flip else {}
        for change in (*self.on_images, *self.on_tensors):
            params |= draw_params(change, pixels.shape)
        return pixels, params

    def _is_flipped(self) -> bool:
        return bool(self.changes.flip) and float(torch.rand(1)) < self.changes.flip

    def _random_crop(self, pixels: Tensor) -> Tensor:
        preprocessing, changes = self.preprocessing, self.changes
        height, width = pixels.shape[-2:]
        aspect = width / height if preprocessing.fit == "stretch" else 1.0
        if preprocessing.fit == "pad":
            pixels = F.pad(pixels, _bars(width, height), fill=mean_colour(preprocessing))
        elif preprocessing.fit == "crop" and changes.from_square:
            side = min(height, width)
            pixels = F.crop(pixels, *v2.RandomCrop.get_params(pixels, (side, side)))
        ratio = [bound * aspect for bound in changes.ratio]
        place = v2.RandomResizedCrop.get_params(pixels, list(changes.scale), ratio)
        # Resizing is faster on a channels-last copy.
        crop = F.crop(pixels, *place)[None].contiguous(memory_format=torch.channels_last)[0]
        return _resize(crop, [preprocessing.size, preprocessing.size], preprocessing)


def _changed(pixels: Tensor, transforms: Sequence[ImageTransform]) -> Tensor:
    """The image after all image transforms.

    Raises:
        PluginError: One of them fails, or returns something else than an image of the same shape.
    """
    for transform in transforms:
        name = f"image transform {type(transform).__name__}"
        with plugin_boundary(name, transform):
            changed = transform.apply(pixels)
        if not isinstance(changed, Tensor) or (changed.dtype, changed.shape) != (pixels.dtype, pixels.shape):
            what = f"{changed.dtype} {tuple(changed.shape)}" if isinstance(changed, Tensor) else type(changed).__name__
            raise PluginError(f"{name} returned {what}", f"return a uint8 tensor of shape {tuple(pixels.shape)}")
        pixels = changed
    return pixels


def _on_images(changes: Changes, preprocessing: Preprocessing) -> tuple[v2.Transform, ...]:
    colours = {name: getattr(changes, name) for name in ("brightness", "contrast", "saturation", "hue")}
    fill = mean_colour(preprocessing)
    found: list[v2.Transform] = []
    if changes.rotate:
        found.append(v2.RandomRotation(changes.rotate, InterpolationMode.BILINEAR, fill=fill))
    if any(colours.values()):
        found.append(v2.ColorJitter(**colours))
    if changes.trivial:
        found.append(v2.TrivialAugmentWide(fill=fill))
    return tuple(found)


def _on_tensors(changes: Changes) -> tuple[v2.Transform, ...]:
    # It fills with 0, the mean colour of a normalised image.
    return (v2.RandomErasing(changes.erase, changes.erase_scale),) if changes.erase else ()


def _fitted(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Resized and cropped as in evaluation; with `fit="pad"` the bars are still missing."""
    size = preprocessing.size
    if preprocessing.fit == "stretch":
        return _resize(pixels, [size, size], preprocessing)
    if preprocessing.fit == "crop":
        cropped: Tensor = F.center_crop(resized(pixels, preprocessing), [size])
        return cropped
    height, width = pixels.shape[-2:]
    factor = size / max(height, width)
    return _resize(pixels, [max(1, round(side * factor)) for side in (height, width)], preprocessing)


def resized(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """The image with the shorter side resized to `preprocessing.resize`, before the central crop of `fit="crop"`."""
    return _resize(_bounded(pixels), [preprocessing.resize], preprocessing)


def _resize(pixels: Tensor, size: list[int], preprocessing: Preprocessing) -> Tensor:
    """Resized to `[height, width]`, or to `[side]` for the shorter side."""
    mode = FILTERS.get(preprocessing.interpolation) or InterpolationMode(preprocessing.interpolation)
    if preprocessing.interpolation in ONLY_PIL:
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
