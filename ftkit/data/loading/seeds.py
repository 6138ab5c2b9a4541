"""Seeds as a function of purpose and position, so no generator state has to be saved.

A resumed run draws the same numbers as an uninterrupted one, whatever the number of worker processes.
"""

from __future__ import annotations

from hashlib import blake2b


def derive(seed: int, purpose: str, *position: int) -> int:
    """A 63-bit seed for a purpose and position; seeds of different positions are independent."""
    text = f"{seed}/{purpose}/{'/'.join(map(str, position))}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
