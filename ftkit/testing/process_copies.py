"""A value as another process gets it: pickled, or inherited by a fork."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

T = TypeVar("T")


def pickled_copy(value: T) -> T:
    """A copy of a value, pickled and unpickled as for another process.

    Raises:
        Exception: The value can't be pickled; the type of the exception depends on the value.
    """
    copy: T = ForkingPickler.loads(bytes(ForkingPickler.dumps(value)))
    return copy


SECONDS = 60.0
"""Timeout of a forked process."""


def run_in_fork(work: Callable[[], Any]) -> Any:
    """Call `work` in a forked process; returns its result, or a text that explains why there is none."""
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def run() -> None:
        try:
            theirs.send(work())
        except BaseException as error:
            theirs.send(f"{type(error).__name__}: {error}")
        finally:
            # Skips the exit handlers that were registered by the parent.
            os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(SECONDS) else f"no result within {SECONDS:.0f} s"
    except EOFError:
        return "the process ended"
    finally:
        process.kill()
        process.join()
        ours.close()
