"""Checkpoints of the moment, and stopping whole when a signal asks for it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ftkit import ranks
from ftkit.engine.agree import largest
from ftkit.engine.checkpoint import has_checkpoint, save_checkpoint
from ftkit.engine.finite import require_finite, require_finite_weights
from ftkit.engine.session import Session
from ftkit.engine.state import all_totals, capture
from ftkit.errors import RunInterrupted
from ftkit.run_folder import RunFolder


def write_checkpoint(session: Session) -> None:
    """Write the state of the moment, on the main process.

    Raises:
        FtkitError: It can't be written, or isn't finite; the checkpoints from before are kept.
    """
    require_finite(session)
    if session.progress.step:  # At the end of an epoch they were looked at before they were judged.
        require_finite_weights(session)
    session.progress.loss_sum, session.progress.correct, session.progress.seen = all_totals(session)
    state = capture(session)
    if session.is_main:
        save_checkpoint(session.run.checkpoints, state, session.plan.config.checkpoint.keep)
    session.saved_at = time.monotonic()
    session.accelerator.wait_for_everyone()


def checkpoint_is_due(session: Session) -> bool:
    """Whether `checkpoint.every_steps` or `checkpoint.every_minutes` asks for one after this step."""
    wanted = session.plan.config.checkpoint
    if wanted.every_steps and session.progress.step % wanted.every_steps == 0:
        return True
    if wanted.every_minutes is None:
        return False
    # The main process's clock decides for all; the others have nothing to add.
    late = time.monotonic() - session.saved_at >= 60 * wanted.every_minutes
    return bool(largest(session.accelerator, int(late and session.is_main)))


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
    if progress.step:
        write_checkpoint(session)
    saved = has_checkpoint(session.run.checkpoints)
    raise RunInterrupted(
        f"stopped after epoch {progress.epoch}, step {progress.step} of {session.plan.batches.steps}; "
        + ("a checkpoint is on disk" if saved else "nothing is lost, for nothing was trained yet"),
        ranks.resume_command(str(session.run.path), session.accelerator.num_processes),
        signum,
    )
