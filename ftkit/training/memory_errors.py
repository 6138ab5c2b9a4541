"""Running out of memory, as one line with the sizes that matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ftkit.errors import FtkitError
from ftkit.plugin_errors import is_out_of_memory, memory_error
from ftkit.runs.checkpoint import has_checkpoint
from ftkit.training.session import Session


@contextmanager
def explain_memory_errors(session: Session, position: Callable[[Session], str]) -> Iterator[None]:
    """Name the batch size, the position and what to lower where memory runs out, on the device or the machine.

    Raises:
        FtkitError: Memory ran out; the checkpoints from before are kept.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, FtkitError) or not is_out_of_memory(error):
            raise
        config, side = session.plan.config, session.plan.preprocessing.size
        saved = "the newest checkpoint is whole" if has_checkpoint(session.run.checkpoints) else "no checkpoint yet"
        raise FtkitError(
            f"{memory_error(error)} on {session.device} with {config.batch_size} images of {side} x {side} pixels a "
            f"batch, in {position(session)}; {saved}",
            _remedy(config.batch_size, config.accumulate, session.compute.precision),
        ) from error


def _remedy(batch_size: int, accumulate: int, precision: str) -> str:
    half = f"--batch-size {batch_size // 2} --accumulate {2 * accumulate}, which keeps the size of a step"
    ways = [half] if batch_size > 1 else []
    ways += ["--precision bf16"] if precision == "fp32" else []
    return f"give {', or '.join([*ways, 'a smaller --image-size'])}"
