"""The end of a run on a signal."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from ftkit.distributed import launch_env
from ftkit.distributed.collectives import max_over_processes
from ftkit.errors import RunInterrupted
from ftkit.plugin_errors import plugin_error_for
from ftkit.runs.checkpoint import has_checkpoint
from ftkit.runs.run_folder import RunFolder
from ftkit.training.session import Session
from ftkit.training.stop_signals import StopFlag


@contextmanager
def stopped_at_once(run: RunFolder, flag: StopFlag) -> Iterator[None]:
    """Turn an interrupt, by a second Ctrl-C or after the time limit, into the command that resumes the run.

    Raises:
        PluginError: No signal came: a plugin has raised `KeyboardInterrupt` itself.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        failure = plugin_error_for(error, "the run") if flag.signum is None else None
        if failure is not None:
            raise failure from error
        flag.acknowledge()
        saved = "the newest checkpoint is whole" if has_checkpoint(run.checkpoints) else "no checkpoint was written yet"
        command = launch_env.resume_command(str(run.path), launch_env.world())
        signum = flag.signum or signal.SIGINT
        delay = ""
        if flag.overdue is not None:
            delay = f", since {flag.overdue:.0f} s after {signal.Signals(signum).name} the step hadn't ended"
        text = f"stopped at once{delay}; {saved}"
        raise RunInterrupted(text, command, signum) from None


def signal_that_came(session: Session) -> int:
    """The signal that has come to any process, or 0; all must call this."""
    signum = max_over_processes(session.accelerator, session.flag.check())
    if signum:
        session.flag.acknowledge()
    return signum


def interruption(session: Session, signum: int) -> RunInterrupted:
    """The error that ends a run between two steps, with the command that resumes it."""
    progress, saved = session.progress, has_checkpoint(session.run.checkpoints)
    return RunInterrupted(
        f"stopped after epoch {progress.epoch}, step {progress.step} of {session.plan.batches.steps}; "
        + ("a checkpoint is on disk" if saved else "nothing was trained yet"),
        launch_env.resume_command(str(session.run.path), session.world),
        signum,
    )
