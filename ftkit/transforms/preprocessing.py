"""Preprocessing: from an image to the tensor that a backbone was trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isfinite
from statistics import fmean
from typing import Literal

from ftkit.errors import RequestError

Fit = Literal["crop", "pad", "stretch"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

LARGEST_SIDE = 16_384
"""Pixels; larger sizes are typing errors, or meant to fill the memory."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """The deterministic transform from an image to a normalised `(channels, size, size)` tensor.

    Attributes:
        size: Side of the square input, in pixels.
        crop_pct: With `fit="crop"`, the share of the shorter side that the central crop keeps: the shorter side is
            resized to `size / crop_pct` first.
        interpolation: Filter of the resize; always with antialiasing.
        mean, std: One value per channel, of values scaled to 0..1: three for RGB, one for greyscale.
        fit: How images that aren't square are fitted: `crop` keeps the middle, `pad` adds bars of the mean colour,
            `stretch` changes the aspect ratio.
        value_range: Values of black and white in images of more than 8 bits whose files don't define them. None is 0 to
            65535, or data without such images.
    """

    size: int = 224
    crop_pct: float = 0.875
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    fit: Fit = "crop"
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.size <= LARGEST_SIDE:
            raise RequestError(f"preprocessing.size is {self.size}", f"give a size of 1 to {LARGEST_SIDE} pixels")
        if not self.size / LARGEST_SIDE <= self.crop_pct <= 1:
            raise RequestError(
                f"preprocessing.crop_pct is {self.crop_pct}",
                f"give at most 1, and at least size / {LARGEST_SIDE}",
            )
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise RequestError(
                f"preprocessing.mean has {len(self.mean)} and preprocessing.std {len(self.std)} values",
                "give three values each for RGB, or one each for grey",
            )
        if not all(isfinite(value) for value in (*self.mean, *self.std)):
            raise RequestError("preprocessing.mean or preprocessing.std has a value that is not finite", "give numbers")
        if self.value_range is not None and not -inf < self.value_range[0] < self.value_range[1] < inf:
            raise RequestError(
                f"preprocessing.value_range is {list(self.value_range)}", "give two numbers, the lower one first"
            )
        if min(self.std) <= 0:
            raise RequestError("preprocessing.std has a value that is not positive", "give more than 0")

    @property
    def channels(self) -> int:
        """1 for greyscale images, 3 for RGB."""
        return len(self.mean)

    def grey(self) -> Preprocessing:
        """The same for greyscale images, with mean and std averaged over the channels."""
        return replace(self, mean=(fmean(self.mean),), std=(fmean(self.std),))

    @property
    def resize(self) -> int:
        """The length, in pixels, that the shorter side is resized to before the central crop."""
        return round(self.size / self.crop_pct)
