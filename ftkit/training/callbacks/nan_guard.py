"""Numbers that go wrong: found before they reach a checkpoint, and told with the images that they came from."""

from __future__ import annotations

import torch
from torch import Tensor

from ftkit.data.images import sample_name
from ftkit.distributed.collectives import max_over_processes
from ftkit.errors import FtkitError
from ftkit.training.session import Session
from ftkit.training.steppers.fsdp import own

NAMED = 8
"""Most images of a step that a message names."""


class Undo:
    """What a forward pass changes besides gradients, so that a step can be left out: buffers and totals."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._buffers = [(buffer, buffer.clone()) for buffer in session.network.buffers()]
        self._totals = session.totals.clone()

    def apply(self) -> None:
        """Put everything back."""
        with torch.no_grad():
            for buffer, before in self._buffers:
                buffer.copy_(before)
        self._session.totals.copy_(self._totals)


def note_loss(session: Session, loss: Tensor, step: int) -> None:
    """Remember the first step whose loss isn't finite, without waiting for the device."""
    wrong = (session.wrong_step < 0) & ~torch.isfinite(loss.detach())
    session.wrong_step = torch.where(wrong, step, session.wrong_step)


def require_finite(session: Session) -> None:
    """Stop, on all processes, where a loss wasn't finite in any of them.

    Raises:
        FtkitError: Names the epoch, the step and the images of its batches.
    """
    step = max_over_processes(session.accelerator, int(session.wrong_step))
    if step >= 0:
        raise FtkitError(
            f"the loss is not finite in epoch {session.progress.epoch + 1}, step {step + 1}, "
            f"on {images_of(session, step)}",
            "lower --lr, look at these images, or leave such steps out with --on-nan skip; "
            "the checkpoints from before are kept",
        )


def unsound(session: Session, step: int) -> FtkitError:
    """The error of a step whose losses are finite, and its gradients aren't."""
    return FtkitError(
        f"the gradients are not finite in epoch {session.progress.epoch + 1}, step {step + 1}, "
        f"on {images_of(session, step)}",
        "lower --lr, or set --clip-grad; the checkpoints from before are kept",
    )


def is_sound(session: Session, loss: Tensor) -> bool:
    """Whether the step may be taken: its loss is finite on all processes, and so are the gradients.

    The gradients of several processes are averaged, so they are the same on all. In fp16 they are scaled, and the
    scaler itself leaves out steps in which they overflow.
    """
    sound = torch.isfinite(loss.detach())
    if session.accelerator.scaler is None:
        gradients = [p.grad for p in session.network.parameters() if p.grad is not None]
        # Shares of one gradient may be finite in this process and not in another; all are asked below.
        sound = sound & torch.isfinite(torch.nn.utils.get_total_norm([own(gradient) for gradient in gradients]))
    return not max_over_processes(session.accelerator, int(not sound))


def skip_step(session: Session, step: int) -> None:
    """Count a step that is left out; the first of each epoch is told."""
    if not session.progress.skipped:
        session.listener.note(
            f"epoch {session.progress.epoch + 1}, step {step + 1} is left out: its loss or gradients are not finite, "
            f"on {images_of(session, step)}"
        )
    session.progress.skipped += 1


def require_finite_weights(session: Session) -> None:
    """Keep weights that are no numbers out of checkpoints and models.

    Only what trains can have become so, and buffers; all of it is looked at while nothing is frozen yet.

    Raises:
        FtkitError: A parameter or buffer isn't finite; names it.
    """
    trained = ((name, tensor) for name, tensor in session.network.named_parameters() if tensor.requires_grad)
    looked = [(n, own(t)) for n, t in (*trained, *session.network.named_buffers()) if t.is_floating_point()]
    wrong = next((place for place, (_, tensor) in enumerate(looked) if not torch.isfinite(tensor).all()), -1)
    # The share that isn't finite may be that of another process, and all must stop.
    wrong = wrong if session.shards is None else max_over_processes(session.accelerator, wrong)
    if wrong >= 0:
        progress = session.progress
        raise FtkitError(
            f"{looked[wrong][0]} is not finite after epoch {progress.epoch}, step {progress.step}, "
            "though the losses were",
            "lower --lr, or set --clip-grad; the checkpoints from before are kept",
        )


def images_of(session: Session, step: int) -> str:
    """The images of a step of the epoch under way, over all processes, by name."""
    order = session.order.indices()
    split = session.plan.splits.train
    assert split is not None, "make_plan refuses data without a training split"
    names = [sample_name(split, int(order[place])) for place in session.plan.batches.step(step)]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
