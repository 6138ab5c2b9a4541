"""The number of decimals that a rate is shown with."""

from __future__ import annotations

import math


def digits_of(images: int) -> int:
    """The number of decimals at which one image changes the last digit of a rate."""
    return min(4, max(2, math.ceil(math.log10(images))))
