"""McNemar's exact test of two models on the same images."""

from __future__ import annotations

from ftkit.parts.metric import Array

LEVEL = 0.05
"""A difference with a p-value of this or more is within chance."""
FEWEST = 6
"""Images that two models must differ on, all in favour of one, for a p-value below `LEVEL`."""


def mcnemar(first: Array, second: Array) -> tuple[int, int, float]:
    """Test whether two models are right on equally many of the same images.

    Args:
        first, second: Whether each model is right on each image, bool `(n,)`.

    Returns:
        Images that only the first has right, images that only the second has right, and the two-sided p-value.
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if not only_first + only_second:
        return 0, 0, 1.0
    return only_first, only_second, float(binomtest(only_first, only_first + only_second).pvalue)


def smallest_difference(images: int) -> int:
    """How many more images one of two models must have right for a p-value below `LEVEL`.

    Args:
        images: Images that exactly one of the two has right. With fewer than six no difference suffices, and the
            result is 6.
    """
    from scipy.stats import binomtest

    images = max(images, FEWEST)
    more = (more for more in range(images % 2, images + 1, 2) if more)
    return next(n for n in more if binomtest((images + n) // 2, images).pvalue < LEVEL)
