"""Checkpoints of the moment, and stopping whole when a signal asks for it."""

from __future__ import annotations

import torch

from ftkit.engine.checkpoint import has_checkpoint, save_checkpoint
from ftkit.engine.session import Session, capture
from ftkit.errors import RunInterrupted


def write_checkpoint(session: Session) -> None:
    if session.accelerator.is_main_process:
        save_checkpoint(session.run.checkpoints, capture(session), session.plan.config.checkpoint.keep)
    session.accelerator.wait_for_everyone()


def largest(session: Session, value: int) -> int:
    """The largest of the values that the processes have; each must ask at the same point of its way."""
    if session.accelerator.num_processes == 1:
        return value
    values = session.accelerator.gather(torch.tensor([value], device=session.device))
    return int(values.max())


def stop_if_alone(session: Session) -> None:
    """Stop between batches that processes take in unequal numbers, where only a single one may stop."""
    if session.accelerator.num_processes == 1:
        stop_if_asked(session)


def stop_if_asked(session: Session) -> None:
    """If a signal has come to any process, leave a checkpoint and stop."""
    signum = largest(session, session.flag.signum or 0)
    if not signum:
        return
    progress = session.progress
    if progress.step:
        write_checkpoint(session)
    saved = has_checkpoint(session.run.checkpoints)
    raise RunInterrupted(
        f"stopped after epoch {progress.epoch}, step {progress.step} of {session.plan.batches.steps}; "
        + ("a checkpoint is on disk" if saved else "nothing is lost, for nothing was trained yet"),
        f"ftkit train --resume {session.run.path}",
        signum,
    )
