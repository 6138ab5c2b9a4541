"""Running out of memory, as one line with the sizes that matter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ftkit.errors import FtkitError, SettingsError
from ftkit.plugin_errors import is_out_of_memory, memory_error
from ftkit.runs.checkpoint import has_checkpoint
from ftkit.training.session import Session


def position(session: Session) -> str:
    """The position of the run, for messages; both numbers are counted from 1."""
    progress, plan = session.progress, session.plan
    step = min(progress.step + 1, plan.batches.steps)
    return f"epoch {min(progress.epoch + 1, plan.config.epochs)}, step {step} of {plan.batches.steps}"


@contextmanager
def explain_memory_errors(session: Session) -> Iterator[None]:
    """Name the batch size, the position and what to lower where memory runs out, on the device or the machine.

    Raises:
        FtkitError: Memory ran out; the checkpoints from before are kept.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, FtkitError) or not is_out_of_memory(error):
            raise
        raise memory_failure(session, memory_error(error)) from error


def memory_failure(session: Session, shortage: str, reason: str = "") -> SettingsError:
    """The error of a run whose memory ran out.

    Args:
        shortage: The result of `memory_error`.
        reason: Why batches aren't divided further.
    """
    batches, side, parts = session.plan.batches, session.plan.preprocessing.size, session.progress.micro_batches
    saved = "the newest checkpoint is whole" if has_checkpoint(session.run.checkpoints) else "no checkpoint yet"
    return SettingsError(
        f"{shortage} on {session.device} with {-(-batches.batch_size // parts)} images of {side} x {side} pixels a "
        f"batch, in the run, at {position(session)}; {f'{reason}; ' if reason else ''}{saved}",
        _remedy(batches.batch_size, batches.accumulate, parts, session.compute.precision),
    )


def _remedy(batch_size: int, accumulate: int, parts: int, precision: str) -> str:
    half = f"--batch-size {batch_size // 2 // parts} --accumulate {2 * accumulate * parts}"
    ways = [f"{half}, which keeps the size of a step"] if batch_size >= 2 * parts else []
    ways += ["--precision bf16"] if precision == "fp32" else []
    return f"give {', or '.join([*ways, 'a smaller --image-size'])}"
