"""The contract of a batch transform: shapes stay, targets stay probabilities, the generator is its only randomness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftkit.api import BatchTransform
from ftkit.testing.contract import require, require_frozen_dataclass, require_picklable

if TYPE_CHECKING:
    from torch import Tensor

CLASSES = 5
SIDE = 24
SIZES = (1, 2, 7)
"""Numbers of images in a batch; the last batch of an epoch may have a single one."""
DRAWS = 8
"""Calls with each batch, with different seeds."""
TOLERANCE = 1e-5


def check_batch_transform(transform: BatchTransform) -> None:
    """Check a batch transform instance on batches of 1 to 7 images.

    Raises:
        ContractError: The class isn't a frozen dataclass, or its instance can't be pickled; images or targets have
            another shape or type, or aren't finite; targets aren't probabilities, or no longer sum to 1; or the result
            depends on more than the batch and the generator.
    """
    require_frozen_dataclass(transform)
    copy = require_picklable(transform)
    for size in SIZES:
        for channels in (1, 3):
            for draw in range(DRAWS):
                for one_class in (True, False):
                    _check_call(transform, copy, _batch(size, channels, draw, one_class), draw)


def _check_call(transform: BatchTransform, copy: BatchTransform, batch: tuple[Tensor, Tensor], draw: int) -> None:
    import torch

    images, targets = batch
    where = f"for a batch of {len(images)}"
    state = torch.get_rng_state()
    found = _apply(transform, batch, draw)
    require(torch.equal(torch.get_rng_state(), state), f"{where} it uses torch's default generator", USE_GENERATOR)
    for what, before, after in (("images", images, found[0]), ("targets", targets, found[1])):
        same = after.shape == before.shape and after.dtype == before.dtype
        require(same, f"{where} its {what} are {after.dtype} {tuple(after.shape)}, not as before")
        require(bool(after.isfinite().all()), f"{where} its {what} are not finite")
    _check_targets(where, targets, found[1])
    for other, how in ((transform, "with the same seed"), (copy, "after pickling")):
        again = _apply(other, batch, draw)
        equal = torch.equal(again[0], found[0]) and torch.equal(again[1], found[1])
        require(equal, f"{where} its result differs {how}", USE_GENERATOR)


USE_GENERATOR = "draw random numbers from `generator` only"


def _check_targets(where: str, before: Tensor, after: Tensor) -> None:
    in_range = bool(((after >= -TOLERANCE) & (after <= 1 + TOLERANCE)).all())
    require(in_range, f"{where} its targets are not from 0 to 1")
    if bool((before.sum(1) == 1).all()):
        sums = after.sum(1)
        require(bool(((sums - 1).abs() <= TOLERANCE).all()), f"{where} its targets don't sum to 1 for each image")


def _apply(transform: BatchTransform, batch: tuple[Tensor, Tensor], seed: int) -> tuple[Tensor, Tensor]:
    import torch

    images, targets = batch
    return transform.apply(images.clone(), targets.clone(), torch.Generator().manual_seed(seed))


def _batch(size: int, channels: int, draw: int, one_class: bool) -> tuple[Tensor, Tensor]:
    """Images, and targets with one class or with several labels for each image."""
    import torch

    generator = torch.Generator().manual_seed(draw)
    images = torch.randn(size, channels, SIDE, SIDE, generator=generator)
    classes = torch.randint(0, CLASSES, (size,), generator=generator)
    labels = torch.rand(size, CLASSES, generator=generator) < 0.5
    hard = torch.nn.functional.one_hot(classes, CLASSES)
    return images, (hard if one_class else labels).to(torch.float32)
