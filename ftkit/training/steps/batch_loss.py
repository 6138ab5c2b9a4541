"""The loss of one batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ftkit.data.loading.loader import Batch
from ftkit.data.loading.seeds import derive
from ftkit.models.logits import split_outputs
from ftkit.training.session import Session
from ftkit.training.steps.epoch_totals import EpochTotals


def batch_loss(session: Session, model: nn.Module, batch: Batch, totals: EpochTotals) -> Tensor:
    """Sum of the images' losses, auxiliary classifiers and teacher included; adds the batch to the totals.

    The totals have the plain loss of the task, so that the record can be compared with the validation loss however
    targets are smoothed or weighted. For images that a batch transform has mixed it is the loss with the mixed
    targets.
    """
    if not len(batch):
        return _idle_loss(session, model, batch)
    with session.compute.autocast():
        outputs = model(batch.images)
    logits, auxiliary = split_outputs(outputs)
    with torch.no_grad():
        task = session.plan.task
        plain, correct = task.plain_loss(logits, batch.labels), task.correct(logits, batch.labels)
        totals.add(plain, correct.sum(), len(batch))
    loss = session.loss(logits, batch.labels, auxiliary)
    return loss if session.distillation is None else session.distillation.mixed(loss, logits, batch.images)


def _idle_loss(session: Session, model: nn.Module, batch: Batch) -> Tensor:
    """A loss of 0 with gradients of 0, for a process without an image while others have some and wait for it.

    Networks need not take a batch of none, so it computes an image of zeros. BatchNorm, whose statistics that would
    change, never trains on batches as small as this (`active_phase`).
    """
    images = batch.images.new_zeros(1, *batch.images.shape[1:])
    with session.compute.autocast():
        logits, auxiliary = split_outputs(model(images))
    return torch.stack([(0.0 * outputs).sum() for outputs in (logits, *auxiliary)]).sum()


def seed_step(session: Session, batch: int, part: int = 0) -> None:
    """Seed the network's own random numbers, such as dropout's, by the position in the run.

    Args:
        batch: The number of the batch within its epoch and process.
        part: The number of the micro-batch within the batch.
    """
    place = (session.progress.epoch, batch, session.rank, *([part] if part else []))
    seed = derive(session.plan.config.seed, "step", *place)
    if session.device.type == "cpu":
        # torch's own seeds every device there is, and takes a third of a millisecond for none.
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
