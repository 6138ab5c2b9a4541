"""Progress notes of long passes over a dataset."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from ftkit.errors import plural

PROGRESS_SECONDS = 5.0
"""Time between progress notes."""

Notify = Callable[[str], None]
"""Called with a line for the user."""


class Progress:
    """Notes on a pass, every few seconds.

    Args:
        text: With a placeholder for the count, such as `5 of 10 images`.
        count: Number of images.
        notify: Called with each note; None for no notes.
    """

    def __init__(self, text: str, count: int, notify: Notify | None) -> None:
        self._text, self._count, self._notify = text, count, notify
        self._done, self._noted = 0, monotonic()

    def step(self) -> None:
        """Count one image."""
        self._done += 1
        if self._notify is not None and monotonic() - self._noted > PROGRESS_SECONDS:
            self._noted = monotonic()
            self._notify(self._text.format(f"{self._done:,} of {plural(self._count, 'image')}"))
