"""Image transforms that torchvision computes: automatic augmentation, random erasing, blur and greyscale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

from ftkit.api import ImageTransform, RequestError, hookimpl

if TYPE_CHECKING:
    from torch import Tensor
    from torchvision.transforms import v2

Policy = Literal["imagenet", "cifar10", "svhn"]


@hookimpl
def ftkit_image_transforms() -> Mapping[str, type[ImageTransform]]:
    return {
        "randaugment": RandAugment,
        "autoaugment": AutoAugment,
        "trivialaugment": TrivialAugment,
        "random-erasing": RandomErasing,
        "gaussian-blur": GaussianBlur,
        "grayscale": Grayscale,
    }


@dataclass(frozen=True)
class RandAugment(ImageTransform):
    """RandAugment (Cubuk et al., 2020): random operations, all at one magnitude.

    Attributes:
        num_ops: Operations per image.
        magnitude: Magnitude of the operations, from 0 to 30.
        fill: Value of the corners of rotated and shifted images, from 0 to 255.
    """

    num_ops: int = 2
    magnitude: int = 9
    fill: int = 128

    def __post_init__(self) -> None:
        _check("randaugment.num_ops", self.num_ops, 0, math.inf)
        _check("randaugment.magnitude", self.magnitude, 0, 30)
        _check("randaugment.fill", self.fill, 0, 255)

    def apply(self, image: Tensor) -> Tensor:
        changed: Tensor = _randaugment(self.num_ops, self.magnitude, self.fill)(image)
        return changed


@dataclass(frozen=True)
class AutoAugment(ImageTransform):
    """AutoAugment (Cubuk et al., 2019): pairs of operations from a learned policy.

    Attributes:
        policy: The dataset that the policy was learned on.
        fill: Value of the corners of rotated and shifted images, from 0 to 255.
    """

    policy: Policy = "imagenet"
    fill: int = 128

    def __post_init__(self) -> None:
        _check("autoaugment.fill", self.fill, 0, 255)

    def apply(self, image: Tensor) -> Tensor:
        changed: Tensor = _autoaugment(self.policy, self.fill)(image)
        return changed


@dataclass(frozen=True)
class TrivialAugment(ImageTransform):
    """TrivialAugment Wide (Müller and Hutter, 2021): one operation at a random magnitude.

    Attributes:
        fill: Value of the corners of rotated and shifted images, from 0 to 255.
    """

    fill: int = 128

    def __post_init__(self) -> None:
        _check("trivialaugment.fill", self.fill, 0, 255)

    def apply(self, image: Tensor) -> Tensor:
        changed: Tensor = _trivialaugment(self.fill)(image)
        return changed


@dataclass(frozen=True)
class RandomErasing(ImageTransform):
    """Random erasing (Zhong et al., 2020): a rectangle is filled with the image's mean colour.

    Attributes:
        probability: The probability of erasing a rectangle.
        scale: Minimum and maximum share of the area that is erased.
        ratio: Minimum and maximum ratio of the rectangle's height to its width.
    """

    probability: float = 0.1
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)

    def __post_init__(self) -> None:
        _check("random-erasing.probability", self.probability, 0, 1)
        _check_range("random-erasing.scale", self.scale, 1)
        _check_range("random-erasing.ratio", self.ratio, math.inf)

    def apply(self, image: Tensor) -> Tensor:
        import torch
        from torchvision.transforms.v2 import functional

        if float(torch.rand(())) >= self.probability:
            return image
        found = _erasing(self.scale, self.ratio).make_params([image])
        if found["v"] is None:
            return image
        mean = image.float().mean(dim=(1, 2), keepdim=True).round().to(image.dtype)
        changed: Tensor = functional.erase(image, found["i"], found["j"], found["h"], found["w"], mean)
        return changed


@dataclass(frozen=True)
class GaussianBlur(ImageTransform):
    """Gaussian blur.

    Attributes:
        probability: The probability of blurring an image.
        sigma: Minimum and maximum standard deviation, in pixels.
    """

    probability: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        _check("gaussian-blur.probability", self.probability, 0, 1)
        _check_range("gaussian-blur.sigma", self.sigma, math.inf)

    def apply(self, image: Tensor) -> Tensor:
        import torch
        from torchvision.transforms.v2 import functional

        if float(torch.rand(())) >= self.probability:
            return image
        sigma = float(torch.empty(()).uniform_(*self.sigma))
        # Padding reflects the image, so the kernel reaches no further than its other end.
        radius = min(math.ceil(3 * sigma), image.shape[-1] - 1)
        changed: Tensor = functional.gaussian_blur(image, [2 * radius + 1] * 2, [sigma, sigma])
        return changed


@dataclass(frozen=True)
class Grayscale(ImageTransform):
    """Greyscale with three equal channels; images with one channel stay as they are.

    Attributes:
        probability: The probability of removing the colour of an image.
    """

    probability: float = 0.1

    def __post_init__(self) -> None:
        _check("grayscale.probability", self.probability, 0, 1)

    def apply(self, image: Tensor) -> Tensor:
        import torch
        from torchvision.transforms.v2 import functional

        if len(image) == 1 or float(torch.rand(())) >= self.probability:
            return image
        changed: Tensor = functional.rgb_to_grayscale(image, num_output_channels=3)
        return changed


@cache
def _randaugment(num_ops: int, magnitude: int, fill: int) -> v2.RandAugment:
    from torchvision.transforms import v2

    return v2.RandAugment(num_ops, magnitude, fill=fill)


@cache
def _autoaugment(policy: Policy, fill: int) -> v2.AutoAugment:
    from torchvision.transforms import v2

    return v2.AutoAugment(v2.AutoAugmentPolicy(policy), fill=fill)


@cache
def _trivialaugment(fill: int) -> v2.TrivialAugmentWide:
    from torchvision.transforms import v2

    return v2.TrivialAugmentWide(fill=fill)


@cache
def _erasing(scale: tuple[float, float], ratio: tuple[float, float]) -> v2.RandomErasing:
    from torchvision.transforms import v2

    return v2.RandomErasing(1.0, scale, ratio)


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        limits = f"{low:g} or more" if high == math.inf else f"a number from {low:g} to {high:g}"
        raise RequestError(f"{name} is {value}", f"give {limits}")


def _check_range(name: str, values: tuple[float, float], limit: float) -> None:
    low, high = values
    if not 0 < low <= high <= limit or high == math.inf:
        most = f" and at most {limit:g}" if limit < math.inf else ""
        raise RequestError(f"{name} is {low:g} to {high:g}", f"give a minimum and a maximum, more than 0{most}")
