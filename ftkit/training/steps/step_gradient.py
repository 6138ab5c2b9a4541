"""The gradient of one optimizer step, computed anew with divided batches where memory runs out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ftkit.data.batch_sizes import even_part
from ftkit.data.loading.loader import Batch
from ftkit.models.compute.compilation import compiler_faults
from ftkit.models.compute.memory_limit import release_memory
from ftkit.models.parameter_groups import Modes
from ftkit.plugin_errors import is_out_of_memory, memory_error
from ftkit.training.memory_errors import position
from ftkit.training.preparation.memory_trial import fewest_images
from ftkit.training.session import Session
from ftkit.training.steps.apply_batch_transforms import transform_batch
from ftkit.training.steps.batch_division import divide_batches, note_division
from ftkit.training.steps.batch_loss import batch_loss, seed_step
from ftkit.training.steps.epoch_totals import EpochTotals

if TYPE_CHECKING:
    from ftkit.training.steps.active_phase import ActivePhase


def step_gradient(
    session: Session, active: ActivePhase, batches: Iterator[Any], step: int, totals: EpochTotals
) -> Tensor:
    """Compute the gradient of the mean loss over all images of a step, on all processes.

    Where memory runs out, the step starts over with divided batches. Several processes have divided theirs before the
    phase (`agree_on_division`): one of them can't leave a step, since the others wait for its gradients.

    Returns:
        The sum of the losses of this process's images, on the device.

    Raises:
        FtkitError: Memory ran out, and batches can't be divided further.
    """
    if session.world > 1:
        return _accumulated(session, active, batches, step, totals)
    taken, before, reason = list[Any](), totals.values.clone(), ""
    active.buffers.take()
    while True:
        found = _tried(session, active, _again(taken, batches), step, totals)
        if isinstance(found, Tensor):
            break
        # Not where the error is caught: it refers to the tensors of the pass that failed.
        reason = reason or found
        active.stepper.drop()
        active.buffers.restore()
        totals.values.copy_(before)
        release_memory(session.device)
    if reason:
        note_division(session, active.modes, f"{reason} on {session.device} in {position(session)}")
    return found


def _tried(
    session: Session, active: ActivePhase, batches: Iterator[Any], step: int, totals: EpochTotals
) -> Tensor | str:
    """The sum of the losses; where memory ran out, the reason, and batches are divided further from now on."""
    try:
        return _accumulated(session, active, batches, step, totals)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        shortage = memory_error(error)
        divide_batches(session, active.modes, shortage)
        return shortage


def _again(taken: list[Any], batches: Iterator[Any]) -> Iterator[Any]:
    """The batches that were taken already, then further ones, which are added to them."""
    yield from tuple(taken)
    for batch in batches:
        taken.append(batch)
        yield batch


def _accumulated(
    session: Session, active: ActivePhase, batches: Iterator[Any], step: int, totals: EpochTotals
) -> Tensor:
    plan = session.plan
    images = len(plan.batches.step(step))
    total = torch.zeros((), device=session.device)
    for part in range(plan.batches.accumulate):
        batch = session.unreadable.readable("train", next(batches)).to(session.compute)
        if not session.unreadable.has_enough(batch):
            continue
        number = step * plan.batches.accumulate + part
        batch = transform_batch(session, batch, number)
        micro = _divided(batch, session.progress.micro_batches, active.modes)
        for place, each in enumerate(micro):
            seed_step(session, number, place)
            last = part == plan.batches.accumulate - 1 and place == len(micro) - 1
            with active.stepper.accumulating(last), compiler_faults(plan.config.compile):
                loss = batch_loss(session, active.model, each, totals)
                total += loss.detach()
                # Wrappers average gradients over processes; the mean wanted is over images.
                active.stepper.backward(loss * (session.world / images))
    return total


def _divided(batch: Batch, parts: int, modes: Modes) -> Sequence[Batch]:
    """A batch on the device in even micro-batches, of at least `fewest_images` where it has as many."""
    parts = parts if parts == 1 else max(1, min(parts, len(batch) // fewest_images(modes)))
    if parts == 1:
        return (batch,)
    ranges = [even_part(range(len(batch)), place, parts) for place in range(parts)]
    rows = [slice(r.start, r.stop) for r in ranges]
    return [replace(batch, images=batch.images[r], labels=batch.labels[r], indices=batch.indices[r]) for r in rows]
