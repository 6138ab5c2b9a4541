"""Sums over groups of images, for all resamples of a bootstrap at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftkit.api import Array


def sums_by_group(images: Array, groups: Array, shape: tuple[int, int], values: Array | None = None) -> Any:
    """A sparse matrix `shape`, images by groups: counts `(resamples, n)` times it are sums of each group.

    Args:
        images, groups: The pairs of image and group that count, int64 `(m,)` each.
        values: What each pair adds, `(m,)`; by default 1.
    """
    import numpy as np
    from scipy.sparse import csr_array

    values = np.ones(len(groups)) if values is None else values.astype(float)
    return csr_array((values, (images, groups)), shape=shape)
