"""Linear heads with a logistic regression for each class, for images with several labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ftkit.data.balance import sampling_weights
from ftkit.data.multilabel_sampling import stratified_folds
from ftkit.parts.label_sets import LabelSets
from ftkit.parts.metric import Array
from ftkit.parts.task import HeadFit
from ftkit.tasks.fold_fits import label_scores
from ftkit.tasks.head_fit import (
    FOLDS,
    LONE_STRENGTH,
    MOST_COMPARED,
    fitted,
    regression,
    scaled,
    single_thread,
    tolerance_of,
)

STRENGTHS = tuple(10.0**power for power in range(-4, 2))
"""The values of C that are compared."""


def fit_one_vs_rest(
    features: Tensor, targets: Tensor, classes: int, intercept: bool = True, balanced: bool = False, seed: int = 0
) -> HeadFit:
    """A logistic regression for each class against all others, with one strength for all of them.

    A class that no image or every image has gets a bias alone. Scaling of the features as in `fit_multinomial`.

    Args:
        features: float32 `(n, features)`.
        targets: Whether each image has each class, bool `(n, classes)`.
        balanced: Weight the images as `balance: sampler` draws them.

    Raises:
        FtkitError: A feature isn't a finite number.
    """
    x, mean, spread = scaled(features, intercept)
    y = targets.bool().numpy()
    weights = _drawn_weights(y) if balanced else np.ones(len(y))
    with single_thread():
        strength = choose_strength(x, y, intercept, weights, seed)
        fits = [_fit_class(x, y[:, label], strength, intercept, weights) for label in range(classes)]
    weight, bias = np.stack([w for w, _ in fits]), np.array([b for _, b in fits])
    weight = weight / spread
    bias = bias - weight @ mean
    return HeadFit(torch.from_numpy(weight).float(), torch.from_numpy(bias).float(), strength)


def cross_validated(features: Tensor, targets: Tensor, seed: int = 0) -> tuple[float, float]:
    """The mAP of logistic regression in cross-validation, and that of the nearness to the mean of a class.

    The latter is the squared distance of an image to the mean of the images without the class, minus that to the mean
    of those with it. Classes with less than two images, or less than two without, don't count.

    Args:
        features: float32 `(n, features)`.
        targets: Whether each image has each class, bool `(n, classes)`; at least one class counts.

    Raises:
        FtkitError: A feature isn't a finite number.
    """
    (x, _, _), y = scaled(features), targets.bool().numpy()
    y, equal = y[:, _in_both(y)], np.ones(len(y))
    with single_thread():
        strength = choose_strength(x, y, True, equal, seed)
        folds = _folds(y, seed)
        (probe,) = _fold_scores(x, y, folds, (strength,), True, equal)
        return _mean_precision(y, probe), _mean_precision(y, _nearest_mean_scores(x, y, folds))


def choose_strength(x: Array, y: Array, intercept: bool, weights: Array, seed: int) -> float:
    """The C with the best mean average precision in cross-validation, of equals the strongest regularisation.

    Args:
        x: Scaled features `(n, features)`.
        y: bool `(n, classes)`.
        weights: Of the images, `(n,)`.
    """
    if len(y) > MOST_COMPARED:
        chosen = np.random.default_rng(seed).choice(len(y), MOST_COMPARED, replace=False)
        x, y, weights = x[chosen], y[chosen], weights[chosen]
    y = y[:, _in_both(y)]
    if len(y) < 2 * FOLDS or not y.shape[1]:
        return LONE_STRENGTH
    scores = _fold_scores(x, y, _folds(y, seed), STRENGTHS, intercept, weights)
    precisions = [round(_mean_precision(y, each), 6) for each in scores]
    return STRENGTHS[precisions.index(max(precisions))]


def _in_both(y: Array) -> list[int]:
    """The classes with at least two images, and two without."""
    return [label for label in range(y.shape[1]) if 1 < y[:, label].sum() < len(y) - 1]


def _folds(y: Array, seed: int) -> Sequence[Sequence[int]]:
    return stratified_folds(_label_sets(y), min(FOLDS, len(y)), seed)


def _label_sets(y: Array) -> LabelSets:
    return LabelSets((row.nonzero()[0].tolist() for row in y), y.shape[1])


def _drawn_weights(y: Array) -> Array:
    """The weights with which `balance: sampler` draws the images, with a mean of 1."""
    weights: Array = np.array(sampling_weights(_label_sets(y), y.shape[1]))
    weights /= weights.mean()
    return weights


def _fold_scores(
    x: Array, y: Array, folds: Sequence[Sequence[int]], strengths: Sequence[float], intercept: bool, weights: Array
) -> Array:
    """The score of each class for each image, by a model that is fitted on the other folds, for each strength.

    Args:
        x: Scaled features `(n, features)`.
        y: bool `(n, classes)`.
        folds: The places of the images that each holds out; together all.
        strengths: Ascending.
        weights: Of the images, `(n,)`.

    Returns:
        Float64 `(strengths, n, classes)`.
    """
    trained = np.tile(weights, (len(folds), 1))
    for fold, unseen in enumerate(folds):
        trained[fold, unseen] = 0
    scores = np.zeros((len(strengths), *y.shape))
    models = []
    for fold, unseen in enumerate(folds):
        seen = np.delete(y, unseen, axis=0)
        for label, positives in enumerate(seen.sum(axis=0).tolist()):
            if 0 < positives < len(seen):
                models.append((fold, label))
            else:
                scores[:, unseen, label] = _lone_bias(positives, len(seen), intercept)
    for part, found in label_scores(x, y, trained, models, strengths, intercept, tolerance_of(len(y))):
        for place, (fold, label) in enumerate(models[part]):
            scores[:, folds[fold], label] = found[:, folds[fold], place]
    return scores


def _nearest_mean_scores(x: Array, y: Array, folds: Sequence[Sequence[int]]) -> Array:
    """The score of each class for each image by the nearness to the means of the other folds, `(n, classes)`."""
    scores = np.zeros(y.shape)
    for unseen in folds:
        seen, own = np.delete(x, unseen, axis=0), np.delete(y, unseen, axis=0)
        for label in range(y.shape[1]):
            weight, bias = _nearest_mean(seen, own[:, label])
            scores[unseen, label] = x[unseen] @ weight + bias
    return scores


def _mean_precision(y: Array, scores: Array) -> float:
    """The mean average precision of scores `(n, classes)`."""
    from sklearn.metrics import average_precision_score

    return float(np.mean([average_precision_score(y[:, label], scores[:, label]) for label in range(y.shape[1])]))


def _nearest_mean(x: Array, y: Array) -> tuple[Array, float]:
    """The score of the nearness to the mean of a class, which is linear; both kinds of images are there."""
    own, others = x[y].mean(axis=0), x[~y].mean(axis=0)
    return 2 * (own - others), float((others**2).sum() - (own**2).sum())


def _fit_class(x: Array, y: Array, strength: float, intercept: bool, weights: Array) -> tuple[Array, float]:
    """Weights and bias; where only one kind of image is there, the bias alone."""
    positives = int(y.sum())
    if positives in (0, len(y)):
        return np.zeros(x.shape[1]), _lone_bias(positives, len(y), intercept)
    model = fitted(regression(strength, intercept, False), x, y, weights)
    return model.coef_[0], float(np.atleast_1d(model.intercept_)[0])


def _lone_bias(positives: int, images: int, intercept: bool) -> float:
    """The logit of a smoothed share, for a class that no image or every image has."""
    return float(np.log((positives + 1) / (images - positives + 1))) if intercept else 0.0
