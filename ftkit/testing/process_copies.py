"""Something as a process that reads images would get it: sent to it, or there when it was forked."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

T = TypeVar("T")


def pickled_copy(value: T) -> T:
    """The value, sent to another process and received again.

    Raises:
        Exception: It can't be sent; which kind depends on what is in it.
    """
    copy: T = ForkingPickler.loads(bytes(ForkingPickler.dumps(value)))
    return copy


SECONDS = 60.0
"""After so long a forked process counts as hung."""


def run_in_fork(work: Callable[[], Any]) -> Any:
    """What `work` returns in a process that is forked here; text that says why it returned nothing."""
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def run() -> None:
        try:
            theirs.send(work())
        except BaseException as error:
            theirs.send(f"{type(error).__name__}: {error}")
        finally:
            # Nothing that the parent registered for its own end is run.
            os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(SECONDS) else f"nothing came back within {SECONDS:.0f} s"
    except EOFError:
        return "the process ended"
    finally:
        process.kill()
        process.join()
        ours.close()
