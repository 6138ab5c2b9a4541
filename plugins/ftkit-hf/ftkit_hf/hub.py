"""The hub's errors as ftkit's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ftkit.api import FtkitError, one_line


@contextmanager
def told(what: str, hint: str) -> Iterator[None]:
    """Say in one line what can't be had from the hub, or sent to it, and what to do.

    Raises:
        FtkitError: Whatever the hub's library or the network raises.
    """
    try:
        yield
    except Exception as error:  # the hub's library, and the network's below it, which changes with its version
        reason = one_line(str(error).strip().split("\n")[0]).partition(". ")[0]
        raise FtkitError(f"{what}: {reason or type(error).__name__}", hint) from error
