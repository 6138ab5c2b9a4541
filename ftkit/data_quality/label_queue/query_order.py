"""The order in which to label images: typical ones first with few labels, uncertain and diverse ones with more."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Strategy = Literal["typical", "uncertain"]

FEW = 20
"""Labelled images per class below which typical images are chosen. The scores of a model trained on less are a poor
guide; see Hacohen, Dekel and Weinshall (ICML 2022)."""
NEIGHBOURS = 20
"""Neighbours of the typicality, as in that paper."""
MOST_CLUSTERS = 500
"""As in that paper."""
FEW_DRAWN = 200
"""Images up to which the best of several draws is taken each time, which takes several times as long."""
POOL = 10
"""How many times as many uncertain images as are asked for the diverse ones are chosen from (Zhdanov: Diverse
mini-batch active learning, 2019)."""

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Queue:
    """Images to label, the most useful first.

    Attributes:
        rows: Positions, `(count,)`.
        margins: Of every image, `(n,)`: the difference of the two highest probabilities; with several labels per image
            the distance of the least certain one from 0.5, times 2.
    """

    strategy: Strategy
    rows: Integers
    margins: Floats


def choose_strategy(labelled: int, classes: int) -> Strategy:
    """The strategy for a number of labelled images."""
    return "typical" if labelled < FEW * max(classes, 1) else "uncertain"


def margins(scores: Tensor, exclusive: bool) -> Floats:
    """See `Queue`."""
    if not exclusive:
        return (2 * (scores - 0.5).abs()).min(dim=1).values.numpy()
    top = scores.topk(min(2, scores.shape[1]), dim=1).values
    return (top[:, 0] - top[:, -1]).numpy() if scores.shape[1] > 1 else top[:, 0].numpy()


def uncertain_and_diverse(features: Tensor, margin: Floats, count: int, seed: int) -> Integers:
    """Images by k-means++ among those with the smallest margins, each drawn by distance and uncertainty.

    The seeding of k-means++ draws each next image with a probability proportional to its squared distance to the images
    drawn before it, times its weight, which is its uncertainty.

    Args:
        features: float32 `(n, d)`.
        margin: `(n,)`.
    """
    from sklearn.cluster import kmeans_plusplus

    pool = np.argsort(margin, kind="stable")[: max(count * POOL, count)]
    unit = torch.nn.functional.normalize(features[torch.from_numpy(pool)], dim=1).double().numpy()
    weights = 1 - margin[pool].astype(np.float64) + 1e-6
    distinct = len(np.unique(unit.round(6), axis=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # Of images that are all alike.
        _, chosen = kmeans_plusplus(
            unit,
            min(count, distinct),
            sample_weight=weights,
            random_state=seed,
            n_local_trials=None if count <= FEW_DRAWN else 1,
        )
    first = list(dict.fromkeys(chosen.tolist()))
    rest = np.setdiff1d(np.arange(len(pool)), first)
    found: Integers = pool[np.concatenate([np.array(first, dtype=np.int64), rest])[:count]]
    return found


def typical(features: Tensor, labelled: Tensor, count: int, seed: int) -> Integers:
    """The most typical image of each cluster, large clusters with few labelled images first (TypiClust).

    Hacohen, Dekel and Weinshall: Active learning on a budget: opposite strategies suit high and low budgets (ICML
    2022).
    The typicality of an image is the inverse of its mean distance to its nearest neighbours in its cluster.

    Args:
        features: Of the unlabelled images, float32 `(n, d)`.
        labelled: Of the labelled images, float32 `(m, d)`; m may be 0.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans

    unit = torch.nn.functional.normalize(torch.cat([features, labelled]), dim=1).double().numpy()
    clusters = min(len(labelled) + count, MOST_CLUSTERS, len(features))
    kind = KMeans if clusters <= 50 else MiniBatchKMeans
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Fewer distinct images than clusters.
        member = kind(clusters, n_init=3, random_state=seed).fit_predict(unit)
    own, covered = member[: len(features)], np.bincount(member[len(features) :], minlength=clusters)
    sizes = np.bincount(own, minlength=clusters)
    ranked = {cluster: _by_typicality(unit, np.flatnonzero(own == cluster)) for cluster in np.flatnonzero(sizes)}
    chosen: list[int] = []
    taken = np.zeros(clusters, dtype=np.int64)
    while len(chosen) < min(count, len(features)):
        left = [cluster for cluster, rows in ranked.items() if taken[cluster] < len(rows)]
        cluster = min(left, key=lambda one: (covered[one] + taken[one], -sizes[one], one))
        chosen.append(int(ranked[cluster][taken[cluster]]))
        taken[cluster] += 1
    return np.array(chosen, dtype=np.int64)


def _by_typicality(unit: Floats, rows: Integers) -> Integers:
    """The rows of a cluster, the most typical first."""
    if len(rows) < 2:
        return rows
    own = torch.from_numpy(unit[rows])
    count = min(NEIGHBOURS, len(rows) - 1)
    means = torch.cat([torch.cdist(part, own).topk(count + 1, largest=False).values[:, 1:].mean(dim=1)
                       for part in torch.split(own, 1024)])  # fmt: skip
    found: Integers = rows[np.argsort(means.numpy(), kind="stable")]
    return found
