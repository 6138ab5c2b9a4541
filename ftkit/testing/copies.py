"""A copy of something as a process that reads images would get it."""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler
from typing import TypeVar

T = TypeVar("T")


def sent(value: T) -> T:
    """The value, sent to another process and received again.

    Raises:
        Exception: It can't be sent; which kind depends on what is in it.
    """
    copy: T = ForkingPickler.loads(bytes(ForkingPickler.dumps(value)))
    return copy
