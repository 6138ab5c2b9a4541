"""Augmentation levels: random changes of training images, with their parameters as options.

Which changes keep the class depends on the data: a mirror image can turn one letter into another, and colours tell
birds apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ftkit.errors import RequestError

Range = tuple[float, float]

ERASED = (0.02, 0.33)


@dataclass(frozen=True)
class Augmentation:
    """The random changes of training images. Fields are options of `augment`.

    Attributes:
        image_transform: Name of an image transform that the level adds after the crop; empty for none.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    image_transform: ClassVar[str] = ""


@dataclass(frozen=True)
class Unchanged(Augmentation):
    """Training images are preprocessed as in evaluation."""


@dataclass(frozen=True)
class Changes(Augmentation):
    """A random crop, and further changes in the order of the fields.

    Attributes:
        scale: Minimum and maximum share of the area that the crop keeps.
        ratio: Minimum and maximum ratio of the crop's width to its height.
        flip: Probability of a horizontal flip.
        rotate: Maximum angle in degrees, to either side; corners are filled with the mean colour.
        brightness, contrast, saturation: Maximum change of the factor: 0.2 means 0.8 to 1.2.
        hue: Maximum shift of the hue to either side, in turns of the colour circle, at most 0.5.
        trivial: TrivialAugment Wide (Müller and Hutter, 2021): one operation at a random magnitude.
        erase: Probability of random erasing: a rectangle is filled with the mean colour (Zhong et al., 2020).
        erase_scale: Minimum and maximum share of the area that is erased.
        from_square: Crop from a square as wide as the image's shorter side, at a random place. A square of 80 % of the
            area doesn't fit into a 3:2 photograph, whose largest square is 67 % of it.
    """

    scale: Range
    ratio: Range
    flip: float = 0.0
    rotate: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    trivial: bool = False
    erase: float = 0.0
    erase_scale: Range = ERASED

    from_square: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_range("scale", self.scale, 1.0)
        _check_range("ratio", self.ratio, float("inf"))
        _check_range("erase_scale", self.erase_scale, 1.0)
        limits = {"flip": 1.0, "rotate": 180.0, "brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5}
        for name, limit in {**limits, "erase": 1.0}.items():
            if not 0 <= getattr(self, name) <= limit:
                raise RequestError(f"augment.{name} is {getattr(self, name)}", f"give a number from 0 to {limit:g}")
        if self.erase_scale != ERASED and not self.erase:
            raise RequestError("augment.erase_scale is set, but nothing is erased", "set augment.erase too")

    @property
    def colours(self) -> tuple[str, ...]:
        """The options in use that have no effect on grey images."""
        return tuple(name for name in ("saturation", "hue") if getattr(self, name))


def check_channels(augmentation: Augmentation, channels: int) -> None:
    """Refuse options without effect on grey images.

    Raises:
        RequestError: Names the option.
    """
    if channels == 1 and isinstance(augmentation, Changes) and augmentation.colours:
        raise RequestError(
            f"augment.{augmentation.colours[0]} has no effect on grey images",
            "drop it; brightness and contrast change grey images too",
        )


@dataclass(frozen=True)
class Light(Changes):
    """Random crops of 80 % or more of the largest square: safe for nearly all classes."""

    scale: Range = (0.8, 1.0)
    ratio: Range = (0.9, 1.1)

    from_square: ClassVar[bool] = True


@dataclass(frozen=True)
class Standard(Changes):
    """Random crops of 35 % or more and horizontal flips, as in transfer-learning tutorials."""

    scale: Range = (0.35, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    flip: float = 0.5


@dataclass(frozen=True)
class Strong(Standard):
    """Standard with TrivialAugment Wide and random erasing, as in torchvision's newer recipes.

    Those recipes train for hundreds of epochs; short runs may do better with less.
    """

    trivial: bool = True
    erase: float = 0.1


@dataclass(frozen=True)
class WithTrivialAugment(Standard):
    """Standard with TrivialAugment Wide (Müller and Hutter, 2021)."""

    trivial: bool = True


@dataclass(frozen=True)
class WithRandAugment(Standard):
    """Standard with RandAugment (Cubuk et al., 2020)."""

    image_transform: ClassVar[str] = "randaugment"


@dataclass(frozen=True)
class WithAutoAugment(Standard):
    """Standard with AutoAugment's policy for ImageNet (Cubuk et al., 2019)."""

    image_transform: ClassVar[str] = "autoaugment"


LEVELS: dict[str, type[Augmentation]] = {
    "none": Unchanged,
    "light": Light,
    "standard": Standard,
    "strong": Strong,
    "trivialaugment": WithTrivialAugment,
    "randaugment": WithRandAugment,
    "autoaugment": WithAutoAugment,
}


def _check_range(name: str, values: Range, limit: float) -> None:
    low, high = values
    if not 0 < low <= high <= limit or high == float("inf"):
        most = f" and at most {limit:g}" if limit < float("inf") else ""
        raise RequestError(f"augment.{name} is {low:g} to {high:g}", f"give a minimum and a maximum, more than 0{most}")
