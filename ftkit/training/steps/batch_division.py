"""Division of batches that don't fit into memory into micro-batches, whose gradients are accumulated.

The gradient of a step stays the mean over the same images. What differs is the order in which it is added up, and the
random numbers that the network draws, such as dropout's. BatchNorm layers that train see fewer images at a time, as
with a smaller `batch_size` and more `accumulate`; so where there are any, a batch is divided only as far as their
statistics stay useful.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ftkit.distributed.collectives import max_over_processes
from ftkit.models.compute.memory_limit import release_memory
from ftkit.models.parameter_groups import Modes
from ftkit.training.memory_errors import memory_failure, position
from ftkit.training.preparation.memory_trial import FEWEST_FOR_BATCHNORM, MemoryTrial, fewest_images

if TYPE_CHECKING:
    from ftkit.training.session import Session
    from ftkit.training.steps.active_phase import ActivePhase


class Buffers:
    """Buffers of modules in train mode, such as BatchNorm's statistics, which a forward pass changes."""

    def __init__(self, modes: Modes) -> None:
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for module in modes.training:
            for buffer in module.buffers(recurse=False):
                by_type.setdefault(buffer.dtype, []).append(buffer)
        self._kept = [(buffers, [buffer.clone() for buffer in buffers]) for buffers in by_type.values()]

    def take(self) -> None:
        """Keep the values of the moment."""
        with torch.no_grad():
            for buffers, copies in self._kept:
                torch._foreach_copy_(copies, buffers)  # A kernel for all, where `copy_` has one for each.

    def restore(self) -> None:
        """Return to the values that were kept."""
        with torch.no_grad():
            for buffers, copies in self._kept:
                torch._foreach_copy_(buffers, copies)


def divide_batches(session: Session, modes: Modes, shortage: str) -> None:
    """Divide each batch into twice as many micro-batches, for the rest of the run.

    Args:
        shortage: The result of `memory_error`.

    Raises:
        FtkitError: They would have too few images.
    """
    parts, smallest = 2 * session.progress.micro_batches, session.plan.batches.smallest
    if smallest // parts >= fewest_images(modes):
        session.progress.micro_batches = parts
        return
    reason = ""
    if smallest >= parts:
        reason = f"BatchNorm layers that train would see fewer than {FEWEST_FOR_BATCHNORM} images at a time"
    raise memory_failure(session, shortage, reason)


def note_division(session: Session, modes: Modes, where: str) -> None:
    """Report into what batches are divided from now on."""
    parts, size = session.progress.micro_batches, session.plan.batches.largest
    each = -(-size // parts)
    effect = f"; BatchNorm layers that train see {each} images at a time" if fewest_images(modes) > 1 else ""
    session.listener.note(
        f"{where}: from now on batches of {size} images are computed as {parts} of {each}, and their gradients "
        f"accumulated{effect}"
    )


def agree_on_division(session: Session, active: ActivePhase) -> None:
    """Before a phase of several processes, divide their batches alike, until a trial step fits in each of them.

    Phases on cached activations are not tried: what trains in them is small.

    Raises:
        FtkitError: In all processes, where batches can't be divided far enough.
    """
    config = session.plan.config
    if session.world == 1 or config.fsdp or config.zero_stage or active.feed is not session.uncached:
        return
    trial, reason = MemoryTrial(session.network, session.plan, session.compute, session.loss), ""
    new_state = not any(p in session.optimizer.state for p in session.network.parameters() if p.requires_grad)
    # Gradients are exchanged in buckets of their size.
    copies = 1 + (session.plan.optimizer.state_values if new_state else 0)
    while True:
        images = -(-session.plan.batches.largest // session.progress.micro_batches)
        short = trial.shortage(images, copies)
        if short:
            release_memory(session.device)
        if not max_over_processes(session.accelerator, int(bool(short))):
            break
        reason = reason or short or "out of memory in another process"
        divide_batches(session, active.modes, reason)
    if reason:
        note_division(session, active.modes, f"{reason} on {session.device} in {position(session)}")
