"""The views of an image for test-time augmentation: the same ones each time, without random numbers.

`none` is the image as evaluation sees it, `flip` adds its mirror image, and `crops` also the four corners, each with
its mirror image: ten views. With `fit="crop"` and a `crop_pct` of 0.875 or less these are torchvision's `five_crop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ftkit.transforms.device_transforms import DeviceTransforms, RandomParams, normalise
from ftkit.transforms.pipeline import evaluation, resized
from ftkit.transforms.preprocessing import Preprocessing

MARGIN = 0.875
"""Largest share of a side that a corner has. With a `crop_pct` of 1 the corners would all be the whole image."""


@dataclass(frozen=True)
class Views:
    """A transform: the views of an image for several networks, without mirror images, in one tensor.

    Mirror images are made of batches, by `with_mirrored`.

    Attributes:
        preprocessings: Of the networks, with the same channels and value range.
        corners: Whether the four corners follow the image.
    """

    preprocessings: tuple[Preprocessing, ...]
    corners: bool

    @property
    def channels(self) -> int:
        return self.preprocessings[0].channels

    @property
    def value_range(self) -> tuple[float, float] | None:
        return self.preprocessings[0].value_range

    @property
    def device_transforms(self) -> DeviceTransforms:
        raise NotImplementedError("views are made by the readers of images")

    def crop(self, pixels: Tensor) -> tuple[Tensor, RandomParams]:
        raise NotImplementedError("views are made by the readers of images")

    def __call__(self, pixels: Tensor) -> Tensor:
        """The views for each preprocessing in turn, flat, float32: `(views * channels * size * size of each,)`."""
        return torch.cat([view.flatten() for each in self.preprocessings for view in self._of(pixels, each)])

    @property
    def count(self) -> int:
        """Views for each preprocessing."""
        return 5 if self.corners else 1

    @property
    def widths(self) -> list[int]:
        """Number of values for each preprocessing."""
        return [self.count * each.channels * each.size**2 for each in self.preprocessings]

    def unpacked(self, images: Tensor) -> list[Tensor]:
        """The views of a batch, `(b, views, channels, size, size)` for each preprocessing.

        Args:
            images: What a call gives for each image, `(b, values)`.
        """
        parts = zip(self.preprocessings, torch.split(images, self.widths, dim=1), strict=True)
        return [part.reshape(-1, self.count, each.channels, each.size, each.size) for each, part in parts]

    def _of(self, pixels: Tensor, preprocessing: Preprocessing) -> Sequence[Tensor]:
        whole = evaluation(preprocessing)(pixels)
        return [whole, *corner_crops(pixels, preprocessing)] if self.corners else [whole]


def corner_crops(pixels: Tensor, preprocessing: Preprocessing) -> list[Tensor]:
    """The normalised corners of an image, float32 `(channels, size, size)` each: the upper two, the lower two.

    The image is fitted as in evaluation, but without the central crop, and enlarged where there would be no margin.
    """
    if preprocessing.fit == "crop":
        larger = replace(preprocessing, crop_pct=min(preprocessing.crop_pct, MARGIN))
        body = normalise(resized(pixels, larger), preprocessing)
    else:
        body = evaluation(replace(preprocessing, size=round(preprocessing.size / MARGIN)))(pixels)
    first, last = slice(None, preprocessing.size), slice(-preprocessing.size, None)
    return [body[:, rows, columns] for rows in (first, last) for columns in (first, last)]


def with_mirrored(views: Tensor) -> Tensor:
    """The views, `(b, views, channels, size, size)`, followed by their mirror images, `(b, 2 * views, ...)`."""
    return torch.cat([views, views.flip(-1)], dim=1)
