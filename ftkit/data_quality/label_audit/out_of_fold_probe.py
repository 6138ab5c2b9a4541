"""Out-of-fold scores of a probe: each image's scores are those of logistic regression on the other folds' features."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from ftkit.data.multilabel_sampling import stratified_folds
from ftkit.parts.label_sets import LabelSets
from ftkit.parts.task import Task
from ftkit.tasks.head_fit import fitted, regression, scaled

FOLDS = 5
DIMENSIONS = 256
"""Principal components that are kept. On CIFAR-10 images and 1,280 features of EfficientNet-Lite0, label errors
are found as well as with all components, in a fraction of the time."""
MOST_FITTED = 20_000
"""Images that a fold's regression is fitted on; more would take long and change little."""
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Inverse regularisation strengths that are compared by the accuracy on the given labels, the first of equals. Label
errors are found better with more regularisation than predictions need."""

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]


def choose_folds(labels: Integers, groups: Integers, seed: int) -> Integers:
    """The fold of each image, from 0: stratified by class, with the images of a group in one fold.

    Args:
        labels: `(n,)`, a number for the label or set of labels of each image.
        groups: The first row of each image's group of duplicates, `(n,)`.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), dtype=np.int64)
    folds[order] = np.arange(len(labels)) % FOLDS
    return folds[groups]


def components(features: Tensor) -> Floats:
    """Features float32 `(n, features)`, centred and scaled, as their first principal components."""
    x, _, _ = scaled(features)
    if x.shape[1] > DIMENSIONS:
        sample = x[:: max(1, len(x) // MOST_FITTED)]
        with threadpool_limits(limits=1):
            _, vectors = np.linalg.eigh(sample.T @ sample)
            x = x @ vectors[:, -DIMENSIONS:]
    return x.astype(np.float32)


def probe_scores(
    x: Floats, labels: Integers, folds: Integers, classes: int, seed: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores of images with one class each.

    Args:
        x: `(n, d)`.
        labels, folds: `(n,)`.

    Returns:
        Probabilities float32 `(n, classes)`; and which images' classes were among those that their model was fitted on.
    """
    found = np.zeros((len(STRENGTHS), len(x), classes), dtype=np.float32) if len(x) * classes < 2**27 else None
    strengths = STRENGTHS if found is not None else STRENGTHS[1:2]
    scores = found if found is not None else np.zeros((1, len(x), classes), dtype=np.float32)
    has_scores = np.zeros(len(x), dtype=np.bool_)
    for fold in range(FOLDS):
        unseen = np.flatnonzero(folds == fold)
        seen = _sample(np.flatnonzero(folds != fold), labels, seed)
        known = np.unique(labels[seen])
        has_scores[unseen] = np.isin(labels[unseen], known)
        if len(unseen) and len(known) > 1:
            _fit(scores, x, labels, (seen, unseen), strengths)
    right = [(one.argmax(axis=1) == labels).sum() for one in scores]
    return scores[int(np.argmax(right))], has_scores


def _fit(
    scores: Floats, x: Floats, labels: Integers, parts: tuple[Integers, Integers], strengths: tuple[float, ...]
) -> None:
    """Fit on the first part for each strength, each from the solution of the one before, and score the second."""
    seen, unseen = parts
    with threadpool_limits(limits=1):
        model = regression(strengths[0], True, False)
        model.warm_start = True
        for number, strength in enumerate(strengths):
            model.C = strength
            fitted(model, x[seen], labels[seen])
            scores[number, unseen[:, None], model.classes_[None]] = model.predict_proba(x[unseen])


def _sample(places: Integers, labels: Integers, seed: int) -> Integers:
    """At most `MOST_FITTED` places with all classes: the first images of each class, in random order, in turn."""
    if len(places) <= MOST_FITTED:
        return places
    order = np.random.default_rng(seed).permutation(places)
    order = order[np.argsort(labels[order], kind="stable")]
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    ranks = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    sizes = np.repeat(np.diff(starts, append=len(order)), np.diff(starts, append=len(order)))
    chosen = order[np.argsort(np.where(ranks == 0, -1.0, ranks / sizes), kind="stable")[:MOST_FITTED]]
    return np.sort(chosen)


def head_scores(x: Floats, targets: Tensor, task: Task, folds: Integers, seed: int) -> Floats:
    """Scores of images for tasks with several labels per image, by the probe of the task.

    Args:
        targets: The result of `Task.targets`, `(n, classes)`.

    Returns:
        Probabilities float32 `(n, classes)`.
    """
    features, scores = torch.from_numpy(x), torch.zeros(targets.shape)
    for fold in range(FOLDS):
        seen, unseen = (torch.from_numpy(np.flatnonzero(flags)) for flags in (folds != fold, folds == fold))
        if len(unseen) and len(seen):
            head = task.fit_head(features[seen], targets[seen], targets.shape[1], seed=seed)
            scores[unseen] = task.scores(features[unseen] @ head.weight.T + head.bias)
    return scores.numpy()


def label_set_folds(labels: LabelSets, groups: Integers, seed: int) -> Integers:
    """As `choose_folds`, stratified by all labels of each image."""
    folds = np.empty(len(labels), dtype=np.int64)
    for number, places in enumerate(stratified_folds(labels, min(FOLDS, len(labels)), seed)):
        folds[places] = number
    return folds[groups]
