"""Whether an exported model computes what the model computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ftkit.errors import FtkitError, plural
from ftkit.metrics.finite_outputs import NOT_FINITE, finite_rows
from ftkit.parts.exporter import TrainedModel
from ftkit.transforms.preprocessing import Preprocessing

TRACED = 2
"""Images that an exporter traces with. torch takes a single one for a size that never changes."""
BATCHES = (1, 3, 8)
"""Sizes of the batches that are compared: none is `TRACED`, so that an export for one batch size fails."""
SEED = 0


class InvalidExport(Exception):
    """What an exporter did against its contract; the text says what."""


@dataclass(frozen=True)
class Parity:
    """How far an exported model is from the model.

    Attributes:
        largest_difference: The largest difference of a logit, over all images and classes.
        largest_logit: The largest absolute value of a logit of the model.
        tolerance: The largest difference that is allowed.
        images: How many images were compared.
        batch_sizes: The sizes of the batches.
    """

    largest_difference: float
    largest_logit: float
    tolerance: float
    images: int
    batch_sizes: tuple[int, ...]

    @property
    def holds(self) -> bool:
        return self.largest_difference <= self.tolerance


@dataclass(frozen=True)
class Batch:
    """Images float32 `(b, channels, size, size)` with the model's logits for them, `(b, classes)`."""

    images: Tensor
    logits: Tensor


def random_images(preprocessing: Preprocessing, count: int) -> Tensor:
    """Normalised images of random pixels, float32 `(count, channels, size, size)`; the same ones at every call."""
    shape = count, preprocessing.channels, preprocessing.size, preprocessing.size
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(SEED))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return (pixels - mean) / std


def reference_batches(model: TrainedModel, images: Sequence[Tensor]) -> tuple[Batch, ...]:
    """The batches to compare, with the model's own logits.

    Args:
        images: Each is split into batches of the sizes of `BATCHES`, as far as its images go.

    Raises:
        FtkitError: The model's outputs for some of the images are not finite.
    """
    with torch.no_grad():
        batches = tuple(Batch(part, model.network(part).float()) for several in images for part in _in_batches(several))
    finite = finite_rows(torch.cat([batch.logits for batch in batches]))
    if not finite.all():
        raise FtkitError(
            f"{NOT_FINITE} for {int((~finite).sum())} of {plural(len(finite), 'image')}",
            "the weights are damaged or the training diverged: train again",
        )
    return batches


def _in_batches(images: Tensor) -> Iterator[Tensor]:
    start = 0
    for size in BATCHES:
        if start < len(images):
            yield images[start : start + size]
        start += size


def compare_logits(exported: Callable[[Tensor], Tensor], batches: Sequence[Batch], tolerance: float) -> Parity:
    """The largest difference between an exported model and the model.

    Args:
        tolerance: See `Exporter.tolerance`.

    Raises:
        InvalidExport: The exported model returns something other than finite logits of the right shape.
    """
    difference, largest = 0.0, 0.0
    for batch in batches:
        with torch.no_grad():
            found = exported(batch.images.clone())
        _check_logits(found, batch.logits)
        found = found.detach().cpu().float()
        # A class may be at minus infinity in both.
        apart = torch.where(found == batch.logits, 0.0, (found - batch.logits).abs())
        finite = batch.logits[batch.logits.isfinite()]
        difference = max(difference, apart.max().item())
        largest = max(largest, finite.abs().max().item())
    sizes = tuple(sorted({len(batch.images) for batch in batches}))
    images = sum(len(batch.images) for batch in batches)
    return Parity(difference, largest, tolerance * max(1.0, largest), images, sizes)


def _check_logits(found: object, expected: Tensor) -> None:
    if not isinstance(found, Tensor):
        raise InvalidExport(f"the exported model returns {type(found).__name__}, not a tensor")
    if found.shape != expected.shape:
        raise InvalidExport(
            f"the exported model returns logits of shape {tuple(found.shape)} for {plural(len(expected), 'image')}, "
            f"not {tuple(expected.shape)}"
        )
    if not finite_rows(found).all():
        raise InvalidExport("the exported model returns logits that are not finite")
