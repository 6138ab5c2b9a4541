"""The user's cache folder, for files that can be computed or downloaded again."""

from __future__ import annotations

import os
from pathlib import Path

from ftkit.errors import RequestError


def cache_folder() -> Path:
    """FTKIT_CACHE_DIR, else $XDG_CACHE_HOME/ftkit, else ~/.cache/ftkit; it may not exist yet.

    Raises:
        RequestError: The user has no home folder.
    """
    own, common = os.environ.get("FTKIT_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(own) if own else Path(common, "ftkit") if common else Path.home() / ".cache" / "ftkit"
        return folder.expanduser().absolute()
    except RuntimeError:
        raise RequestError("there is no home folder for the cache", "set FTKIT_CACHE_DIR") from None
