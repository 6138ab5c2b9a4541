"""Linear heads fitted on features: logistic regression by scikit-learn, its strength chosen by cross-validation."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from ftkit.errors import FtkitError
from ftkit.parts.metric import Array
from ftkit.parts.task import HeadFit
from ftkit.tasks.fold_fits import fold_predictions

FEW = 1000
"""Up to so many images strengths are compared in half decades and on repeated splits, which costs little then."""
MOST_COMPARED = 4000
"""Images that strengths are compared on; more would take long and choose the same."""
FOLDS, REPEATS = 5, 8
LONE_STRENGTH = 0.01
"""Did well on all the data that was tried."""
ITERATIONS = 1000
TOLERANCE, TOLERANCE_OF_FEW = 1e-4, 1e-5
"""Of the fits that compare strengths. With scikit-learn's 1e-4, weak models of few images don't reach the optimum."""


def fit_multinomial(
    features: Tensor, labels: Tensor, classes: int, intercept: bool = True, balanced: bool = False, seed: int = 0
) -> HeadFit:
    """Multinomial logistic regression, by scikit-learn, its strength chosen by cross-validation.

    Features are centred and divided by one number, their overall spread, so that a strength means the same
    for every backbone; the solution is given for the features as they were.

    Args:
        features: float32 `(n, features)`.
        labels: int64 `(n,)`, each class at least once.
        balanced: Let each class count equally.

    Raises:
        FtkitError: A feature isn't a finite number.
    """
    x, mean, spread = scaled(features, intercept)
    y = labels.numpy()
    with single_thread():
        strength = choose_strength(x, y, intercept, balanced, seed)
        weight, bias = _by_class(fitted(regression(strength, intercept, balanced), x, y), classes)
    weight = weight / spread
    bias = bias - weight @ mean
    return HeadFit(torch.from_numpy(weight).float(), torch.from_numpy(bias).float(), strength)


@contextmanager
def single_thread() -> Iterator[None]:
    """Have the solver use one thread: its matrices are small, and one gives the same bits on any machine."""
    import sklearn.linear_model  # noqa: F401  only libraries that are loaded can be limited

    with threadpool_limits(limits=1):
        yield


def scaled(features: Tensor, centre: bool = True) -> tuple[Array, Array, float]:
    """Features in double precision, centred and divided by their overall spread; their mean and that spread.

    Raises:
        FtkitError: A feature isn't a finite number.
    """
    x = features.double().numpy()
    if not np.isfinite(x).all():
        raise FtkitError("the pretrained network puts out features that are not finite", "check its weights")
    # Without an intercept there is nothing to take the mean back up.
    mean, spread = (x.mean(axis=0) if centre else np.zeros(x.shape[1])), float(x.std()) or 1.0
    return (x - mean) / spread, mean, spread


def cross_validated(features: Tensor, labels: Tensor, seed: int = 0) -> tuple[float, float]:
    """Accuracy of logistic regression on features in cross-validation, and that of the nearest mean of a class.

    Args:
        features: float32 `(n, features)`.
        labels: int64 `(n,)`, each class at least twice.

    Raises:
        FtkitError: A feature isn't a finite number.
    """
    from sklearn.model_selection import StratifiedKFold

    (x, _, _), y = scaled(features), labels.numpy()
    folds = min(FOLDS, *Counter(y.tolist()).values())
    right = np.zeros(2)
    with single_thread():
        strength = choose_strength(x, y, True, False, seed)
        for seen, unseen in StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y):
            model = fitted(regression(strength, True, False), x[seen], y[seen])
            guesses = model.predict(x[unseen]), _nearest_mean(x[seen], y[seen], x[unseen])
            right += [(guess == y[unseen]).sum() for guess in guesses]
    probe, nearest = right / len(y)
    return float(probe), float(nearest)


def _nearest_mean(x: Array, y: Array, unseen: Array) -> Array:
    """The class whose mean is nearest to each row of `unseen`."""
    names = np.unique(y)
    means = np.stack([x[y == name].mean(axis=0) for name in names])
    # |u - m|² = |u|² - 2um + |m|²; |u|² is the same for all means.
    guesses: Array = names[((means**2).sum(axis=1) - 2 * unseen @ means.T).argmin(axis=1)]
    return guesses


def choose_strength(x: Array, y: Array, intercept: bool, balanced: bool, seed: int) -> float:
    """The C with the best accuracy in cross-validation, of equals the strongest regularisation.

    Accuracy and not log loss: on few images the latter prefers less regularisation than new images do
    (measured on CIFAR-10 with 10 images a class: 77.4 % against 81.3 %). Where a class has a single image,
    or there are too many classes for two each, nothing can be compared, and `LONE_STRENGTH` is taken.
    """
    from sklearn.model_selection import RepeatedStratifiedKFold, train_test_split

    if 2 * len(np.unique(y)) > MOST_COMPARED:
        return LONE_STRENGTH
    if len(y) > MOST_COMPARED:
        x, _, y, _ = train_test_split(x, y, train_size=MOST_COMPARED, random_state=seed, stratify=y)
    names, y, counts = np.unique(y, return_inverse=True, return_counts=True)
    folds = min(FOLDS, *counts.tolist())
    if folds < 2 or len(names) < 2:
        return LONE_STRENGTH
    few = len(y) <= FEW
    repeats = min(REPEATS, FEW // len(y)) if few else 1
    strengths = [10 ** (half / 2) for half in range(-8, 3, 1 if few else 2)]
    held_out = np.zeros((folds * repeats, len(y)))
    splits = RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=seed)
    for fold, (_, unseen) in enumerate(splits.split(x, y)):
        held_out[fold, unseen] = 1
    weights = 1 - held_out
    if balanced:
        weights, held_out = _balanced(weights, y), _balanced(held_out, y)
    scores = np.zeros((len(strengths), len(weights)))
    for part, predicted in fold_predictions(x, y, weights, strengths, intercept, tolerance_of(len(y))):
        right = (predicted == y[:, None]) * held_out[part].T
        scores[:, part] = right.sum(axis=1) / held_out[part].sum(axis=1)
    return float(strengths[int(scores.mean(axis=1).round(6).argmax())])


def tolerance_of(images: int) -> float:
    """The tolerance of fits that compare strengths on so many images."""
    return TOLERANCE_OF_FEW if images <= FEW else TOLERANCE


def _balanced(weights: Array, y: Array) -> Array:
    """Weights `(folds, n)` with which each class counts equally in each fold; their sum stays."""
    classes = y.max() + 1
    counts = np.stack([weights[:, y == label].sum(axis=1) for label in range(classes)], axis=1)
    balanced: Array = weights * (weights.sum(axis=1, keepdims=True) / (classes * counts))[:, y]
    return balanced


def fitted(model: Any, x: Array, y: Array, weights: Array | None = None) -> Any:
    """A model fitted on checked arrays, without scikit-learn's warnings of future versions."""
    from sklearn import config_context

    with warnings.catch_warnings(), config_context(assume_finite=True, skip_parameter_validation=True):
        warnings.simplefilter("ignore", FutureWarning)
        return model.fit(x, y, sample_weight=weights)


def regression(strength: float, intercept: bool, balanced: bool) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(
        C=strength, fit_intercept=intercept, class_weight="balanced" if balanced else None, max_iter=ITERATIONS
    )


def _by_class(model: Any, classes: int) -> tuple[Array, Array]:
    """One row a class; for two classes scikit-learn gives a single one, for the second against the first."""
    weight, bias = model.coef_, np.atleast_1d(model.intercept_)
    if classes == 2:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, np.broadcast_to(bias, (classes,)).copy()
