"""Distances to the nearest neighbours in feature space, and outliers by them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NEIGHBOURS = 10
MOST_REFERENCES = 20_000
"""Images that each image is compared with; of more, an even sample is taken."""
BLOCK = 1024
FAR = 3.0
"""Interquartile ranges above the third quartile from which a distance is an outlier (Tukey's far out values)."""

Floats = NDArray[np.floating]


def neighbour_distances(features: Tensor) -> Floats:
    """Mean cosine distance of each image to its nearest neighbours, float32 `(n,)`.

    Sun et al.: Out-of-distribution detection with deep nearest neighbors (ICML 2022). A distance of less than 1e-6 is
    that of a copy, which isn't counted as a neighbour, and neither is the image itself.

    Args:
        features: float32 `(n, d)`.
    """
    unit = torch.nn.functional.normalize(features, dim=1)
    references = unit[:: max(1, -(-len(unit) // MOST_REFERENCES))]
    count = min(NEIGHBOURS, len(references) - 1)
    if count < 1:
        return np.zeros(len(unit), dtype=np.float32)
    parts = []
    for block in torch.split(unit, BLOCK):
        distances = 1 - block @ references.T
        distances[distances < 1e-6] = torch.inf
        nearest = distances.topk(count, largest=False).values
        finite = nearest.isfinite()
        total = torch.where(finite, nearest, 0).sum(dim=1)
        parts.append(total / finite.sum(dim=1).clamp(min=1))
    return torch.cat(parts).numpy()


def outliers(distances: Floats) -> NDArray[np.int64]:
    """The images that are far from all others, the farthest first."""
    if not len(distances):
        return np.empty(0, dtype=np.int64)
    low, high = np.quantile(distances, [0.25, 0.75])
    rows = np.flatnonzero(distances > high + FAR * (high - low))
    return rows[np.argsort(-distances[rows], kind="stable")]
