"""Mixup and CutMix: images of a batch, and their targets, are mixed in pairs."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftkit.api import BatchTransform, RequestError, hookimpl

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@hookimpl
def ftkit_batch_transforms() -> Mapping[str, type[BatchTransform]]:
    return {"mixup": Mixup, "cutmix": CutMix}


@dataclass(frozen=True)
class Mixup(BatchTransform):
    """Mixup (Zhang et al., 2018): weighted means of two images and of their targets.

    Attributes:
        alpha: The weight of a batch is drawn from Beta(alpha, alpha).
    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_alpha("mixup", self.alpha)

    def apply(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        weight, partners = _draw(self.alpha, len(images), generator)
        partners = partners.to(images.device, non_blocking=True)
        return images[partners].lerp(images, weight), targets[partners].lerp(targets, weight)


@dataclass(frozen=True)
class CutMix(BatchTransform):
    """CutMix (Yun et al., 2019): a rectangle of each image is replaced by another image's.

    Attributes:
        alpha: The share of the area that stays is drawn from Beta(alpha, alpha).
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_alpha("cutmix", self.alpha)

    def apply(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        import torch

        weight, partners = _draw(self.alpha, len(images), generator)
        partners = partners.to(images.device, non_blocking=True)
        height, width = images.shape[-2:]
        row, column = (int(torch.randint(side, (), generator=generator)) for side in (height, width))
        part = math.sqrt(1 - weight)
        top, bottom = _span(row, part, height)
        left, right = _span(column, part, width)
        mixed = images.clone()
        mixed[..., top:bottom, left:right] = images[partners, :, top:bottom, left:right]
        # The rectangle may be cut off at the border.
        kept = 1 - (bottom - top) * (right - left) / (height * width)
        return mixed, targets[partners].lerp(targets, kept)


def _draw(alpha: float, count: int, generator: torch.Generator) -> tuple[float, Tensor]:
    """The weight of each image, and the index of its partner, int64 `(count,)`."""
    import torch

    # torch's Beta distribution takes no generator.
    seed = int(torch.randint(2**62, (), generator=generator))
    return random.Random(seed).betavariate(alpha, alpha), torch.randperm(count, generator=generator)


def _span(centre: int, part: float, side: int) -> tuple[int, int]:
    """Start and end of `part` of a side around a centre, within the image."""
    half = round(part * side) // 2
    return max(centre - half, 0), min(centre + half, side)


def _check_alpha(name: str, alpha: float) -> None:
    if not 0 < alpha < math.inf:
        raise RequestError(f"{name}.alpha is {alpha}", "give more than 0")
