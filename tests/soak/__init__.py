"""What takes long enough to be run for a release, not for a commit: `nox -s soak`.

`FTKIT_SOAK` scales the number of examples, 1 being what docs/promises.md records.
"""

from __future__ import annotations

import os

SCALE = float(os.environ.get("FTKIT_SOAK", "1"))


def times(count: int) -> int:
    """So many, scaled."""
    return max(1, round(count * SCALE))
