"""Where ftkit keeps what it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path

from ftkit.errors import RequestError


def cache_folder() -> Path:
    """FTKIT_CACHE_DIR, else $XDG_CACHE_HOME/ftkit, else ~/.cache/ftkit; it need not exist yet.

    Raises:
        RequestError: There is no home folder to keep it in.
    """
    own, common = os.environ.get("FTKIT_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(own) if own else Path(common, "ftkit") if common else Path.home() / ".cache" / "ftkit"
        return folder.expanduser().absolute()
    except RuntimeError:
        raise RequestError("there is no home folder to keep the cache in", "set FTKIT_CACHE_DIR") from None
