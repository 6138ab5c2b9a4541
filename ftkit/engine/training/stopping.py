"""Stopping whole when a signal asks for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from ftkit import ranks
from ftkit.engine.distributed.agree import largest
from ftkit.engine.storage.checkpoint import has_checkpoint
from ftkit.engine.training.saving import write_checkpoint
from ftkit.engine.training.session import Session
from ftkit.errors import RunInterrupted
from ftkit.run_folder import RunFolder


@contextmanager
def stopped_at_once(run: RunFolder) -> Iterator[None]:
    """Turn the second Ctrl-C, which stops a run wherever it is, into the words that say how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        saved = "the newest checkpoint is whole" if has_checkpoint(run.checkpoints) else "no checkpoint was written yet"
        command = ranks.resume_command(str(run.path), ranks.world())
        raise RunInterrupted(f"stopped at once; {saved}", command, signal.SIGINT) from None


def stop_if_asked(session: Session) -> None:
    """If a signal has come to any process, leave a checkpoint and stop."""
    signum = largest(session.accelerator, session.flag.signum or 0)
    if not signum:
        return
    progress = session.progress
    if progress.step or session.unsaved:
        write_checkpoint(session)
    saved = has_checkpoint(session.run.checkpoints)
    raise RunInterrupted(
        f"stopped after epoch {progress.epoch}, step {progress.step} of {session.plan.batches.steps}; "
        + ("a checkpoint is on disk" if saved else "nothing is lost, for nothing was trained yet"),
        ranks.resume_command(str(session.run.path), session.accelerator.num_processes),
        signum,
    )
