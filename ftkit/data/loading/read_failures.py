"""Images that couldn't be read: what stands in their place, and the errors that they end a run with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ftkit.errors import FtkitError


@dataclass(frozen=True)
class ReadFailure:
    """An image that couldn't be read, in place of its sample, since exceptions lose their type between processes.

    Attributes:
        error: Raised, if images aren't skipped, instead of an error on the file.
        skippable: Whether the image may be skipped. Otherwise `error` is not about the image, and ends the run.
    """

    file: str
    reason: str
    error: FtkitError | None = None
    skippable: bool = True


def raise_plugin_errors(found: Iterable[object]) -> None:
    """Raise the first error that is not about an image.

    Raises:
        FtkitError: There is one.
    """
    for one in found:
        if isinstance(one, ReadFailure) and one.error is not None and not one.skippable:
            raise one.error


def raise_failures(found: Iterable[object]) -> None:
    """Raise an error if an image couldn't be read.

    Raises:
        FtkitError: Names the first such file.
    """
    found = list(found)
    raise_plugin_errors(found)
    for one in found:
        if isinstance(one, ReadFailure):
            raise one.error or FtkitError(
                f"{one.file}: {one.reason}",
                "repair or remove it, or skip it with --on-bad-image skip, then run this again",
            )
