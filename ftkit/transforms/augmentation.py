"""Random changes of training images, as numbers: four levels, each with its parameters as options.

A network that never sees the same pixels twice learns what stays the same. What may change without changing
the class is a matter of the data: mirror images turn letters into others, colours tell birds apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ftkit.errors import RequestError

Range = tuple[float, float]

ERASED = (0.02, 0.33)


@dataclass(frozen=True)
class Augmentation:
    """What happens to training images beside their preprocessing. Fields are options of `augment`."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}


@dataclass(frozen=True)
class Unchanged(Augmentation):
    """Training images are treated as in evaluation."""


@dataclass(frozen=True)
class Changes(Augmentation):
    """A random crop, and then what else is switched on, in the order of the fields.

    Attributes:
        scale: Least and greatest part of the area that the crop keeps.
        ratio: Least and greatest ratio of the crop's width to its height.
        flip: Probability of a mirror image.
        rotate: Greatest angle, in degrees, to either side; corners take the mean colour.
        brightness, contrast, saturation: Greatest change by a factor: 0.2 is from 0.8 to 1.2.
        hue: Greatest turn of the colour circle to either side, in turns: at most 0.5.
        trivial: One change of strength and kind drawn at random (TrivialAugment Wide, Müller and Hutter, 2021).
        erase: Probability of a rectangle being replaced by the mean colour (Zhong et al., 2020).
        erase_scale: Least and greatest part of the area that is replaced.
        from_square: Crop from a square as wide as the image's shorter side, at a random place: a part of 80 %
            doesn't fit into a 3:2 photograph, whose largest square is 67 % of it.
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
        """The options in use that act on colour alone, so that grey images stay as they are."""
        return tuple(name for name in ("saturation", "hue") if getattr(self, name))


def check_channels(augmentation: Augmentation, channels: int) -> None:
    """Refuse changes of colour where images have none.

    Raises:
        RequestError: Names the option that would do nothing.
    """
    if channels == 1 and isinstance(augmentation, Changes) and augmentation.colours:
        raise RequestError(
            f"augment.{augmentation.colours[0]} has no effect on grey images",
            "drop it; brightness and contrast change grey images too",
        )


@dataclass(frozen=True)
class Light(Changes):
    """Crops of 80 % or more of the largest square; nothing that could turn one class into another."""

    scale: Range = (0.8, 1.0)
    ratio: Range = (0.9, 1.1)

    from_square: ClassVar[bool] = True


@dataclass(frozen=True)
class Standard(Changes):
    """Crops of 35 % or more, and mirror images: what the transfer-learning tutorials train with."""

    scale: Range = (0.35, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    flip: float = 0.5


@dataclass(frozen=True)
class Strong(Standard):
    """Standard with TrivialAugment Wide and random erasing, as torchvision's later recipes have it.

    Those recipes train for hundreds of epochs; a run of a few may do better with less.
    """

    trivial: bool = True
    erase: float = 0.1


LEVELS: dict[str, type[Augmentation]] = {"none": Unchanged, "light": Light, "standard": Standard, "strong": Strong}


def _check_range(name: str, values: Range, limit: float) -> None:
    low, high = values
    if not 0 < low <= high <= limit or high == float("inf"):
        most = f" and at most {limit:g}" if limit < float("inf") else ""
        raise RequestError(
            f"augment.{name} is {low:g} to {high:g}", f"give the least and the greatest, more than 0{most}"
        )
