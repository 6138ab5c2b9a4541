"""Applies the batch transforms of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ftkit.data.loading.loader import Batch
from ftkit.data.loading.seeds import derive
from ftkit.parts.random_transforms import BatchTransform
from ftkit.plugin_errors import PluginError, plugin_boundary

if TYPE_CHECKING:
    from ftkit.training.session import Session


def transform_batch(session: Session, batch: Batch, number: int) -> Batch:
    """A training batch after one of the run's batch transforms; its labels are probabilities, float32 `(b, classes)`.

    Without batch transforms it stays as it is. Random numbers depend on the position in the run alone.

    Args:
        batch: The batch, on the device.
        number: The number of the batch within its epoch and process.
    """
    plan = session.plan
    if not plan.batch_transforms or not len(batch):
        return batch
    seed = derive(plan.config.seed, "batch-transform", session.progress.epoch, number, session.rank)
    generator = torch.Generator().manual_seed(seed)
    chosen = int(torch.randint(len(plan.batch_transforms), (), generator=generator))
    transform = plan.batch_transforms[chosen]
    targets = plan.task.soft_targets(batch.labels, plan.num_classes)
    if float(torch.rand((), generator=generator)) >= transform.probability:
        return replace(batch, labels=targets)
    name = f"batch transform {plan.config.batch_transforms[chosen].name!r}"
    images, targets = _apply(transform, name, (batch.images, targets), generator)
    return replace(batch, images=session.compute.to_device(images), labels=targets)


def _apply(
    transform: BatchTransform, name: str, batch: tuple[Tensor, Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The changed images and targets.

    Raises:
        PluginError: The transform fails, or returns other shapes or types.
    """
    with plugin_boundary(name, transform):
        images, targets = transform.apply(*batch, generator)
    for what, before, after in (("images", batch[0], images), ("targets", batch[1], targets)):
        if not isinstance(after, Tensor) or (after.shape, after.dtype) != (before.shape, before.dtype):
            found = f"{after.dtype} {tuple(after.shape)}" if isinstance(after, Tensor) else type(after).__name__
            raise PluginError(f"{name} returned {what} as {found}", f"return {before.dtype} {tuple(before.shape)}")
    return images, targets
