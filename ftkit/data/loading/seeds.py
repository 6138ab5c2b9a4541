"""Randomness as a function of position: no generator's state has to be saved or fast-forwarded.

A run that starts again in the middle draws the same numbers as one that never stopped, and the number of
worker processes changes nothing, because every draw is seeded by what it is for.
"""

from __future__ import annotations

from hashlib import blake2b


def derive(seed: int, purpose: str, *position: int) -> int:
    """A seed of 63 bits for one purpose at one position; different positions are unrelated."""
    text = f"{seed}/{purpose}/{'/'.join(map(str, position))}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
