"""Logistic regressions on the training parts of all folds, fitted at once to compare strengths of regularisation.

scikit-learn fits one model at a time. On few images its checks and SciPy's steps, thousands of times each, take many
times as long as the arithmetic. Here several models share each matrix product and each step of L-BFGS. Loss and
regularisation are those of scikit-learn's `LogisticRegression`, which fits the final head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ftkit.parts.metric import Array

Losses = Callable[[Array], tuple[Array, Array]]
"""From scores `(n, models, columns)` to negative log-likelihoods `(n, models)` and their derivatives by the scores."""
MOST_VALUES = 300_000
"""Scores or parameters of the models that are fitted at once. More are no faster, and take more memory."""
OPTIONS = {"maxiter": 1000, "ftol": 64 * np.finfo(float).eps, "maxls": 50}
"""Those of scikit-learn."""


def fold_predictions(
    x: Array, y: Array, weights: Array, strengths: Sequence[float], intercept: bool, tolerance: float
) -> Iterator[tuple[slice, Array]]:
    """The classes that the model of each fold predicts for all images, for each strength of regularisation.

    Args:
        x: Scaled features `(n, features)`.
        y: Classes from 0 on, `(n,)`; at least two.
        weights: Weight of each image in the training of each fold's model, `(folds, n)`; 0 for those held out.
        strengths: Values of C, ascending: the fit of each starts from that of the one before.
        tolerance: Of the largest entry of the gradient, as `tol` of scikit-learn.

    Yields:
        A slice of the folds, and the classes that their models predict, `(strengths, n, folds)`.
    """
    classes = int(y.max()) + 1
    if classes == 2:
        second = [(fold, 0) for fold in range(len(weights))]
        for part, scores in label_scores(x, y[:, None], weights, second, strengths, intercept, tolerance):
            yield part, (scores > 0).astype(int)
        return
    inputs = _inputs(x, intercept)
    for part in _parts(inputs, len(weights), classes):
        problem = _Fits(inputs, _multinomial(y), weights[part], classes, intercept)
        yield part, np.stack([problem.fitted(one, tolerance).argmax(axis=2) for one in strengths])


def label_scores(
    x: Array,
    targets: Array,
    weights: Array,
    models: Sequence[tuple[int, int]],
    strengths: Sequence[float],
    intercept: bool,
    tolerance: float,
) -> Iterator[tuple[slice, Array]]:
    """The log-odds of a label for all images by models of single labels, for each strength of regularisation.

    Args:
        targets: Whether each image has each label, bool `(n, labels)`.
        models: The fold and the label of each. The training part of the fold has images with the label and without.

    The other args are those of `fold_predictions`.

    Yields:
        A slice of the models, and their log-odds, `(strengths, n, models)`.
    """
    inputs = _inputs(x, intercept)
    folds, labels = [fold for fold, _ in models], [label for _, label in models]
    for part in _parts(inputs, len(models), 1):
        problem = _Fits(inputs, _binary(targets[:, labels[part]]), weights[folds[part]], 1, intercept)
        yield part, np.stack([problem.fitted(one, tolerance)[:, :, 0] for one in strengths])


def _inputs(x: Array, intercept: bool) -> Array:
    """What the parameters multiply: features, and a one for the bias."""
    if x.shape[1] > len(x):
        # A solution is a weighted sum of the images, so coordinates in the space that they span are enough.
        x = np.asarray(np.linalg.qr(x.T, mode="r")).T
    return np.hstack([x, np.ones((len(x), 1))]) if intercept else x


def _parts(inputs: Array, models: int, columns: int) -> Iterator[slice]:
    """Slices of the models that are fitted at once."""
    step = max(1, MOST_VALUES // (max(inputs.shape) * columns))
    return (slice(first, first + step) for first in range(0, models, step))


class _Fits:
    """Several models of the same images; parameters are `(features, models, columns)`, with the biases as last row."""

    def __init__(self, inputs: Array, losses: Losses, weights: Array, columns: int, intercept: bool) -> None:
        self._inputs, self._losses = inputs, losses
        self._total = weights.sum(axis=1)
        self._shares = (weights / self._total[:, None]).T
        self._penalised = inputs.shape[1] - intercept
        self._parameters = np.zeros((inputs.shape[1], len(weights), columns))

    def fitted(self, strength: float, tolerance: float) -> Array:
        """The scores of all images, `(n, models, columns)`, after a fit from the current parameters on."""
        from scipy.optimize import minimize

        ridge = (1 / (strength * self._total))[:, None]

        def objective(values: Array) -> tuple[float, Array]:
            parameters = values.reshape(self._parameters.shape)
            losses, errors = self._losses(self._scores(parameters))
            errors *= self._shares[:, :, None]
            gradient = (self._inputs.T @ errors.reshape(len(errors), -1)).reshape(parameters.shape)
            penalised = parameters[: self._penalised]
            gradient[: self._penalised] += ridge * penalised
            return float((self._shares * losses).sum() + 0.5 * (ridge * penalised**2).sum()), gradient.ravel()

        options = {**OPTIONS, "gtol": tolerance}
        found = minimize(objective, self._parameters.ravel(), jac=True, method="L-BFGS-B", options=options)
        self._parameters = found.x.reshape(self._parameters.shape)
        return self._scores(self._parameters)

    def _scores(self, parameters: Array) -> Array:
        product = self._inputs @ parameters.reshape(len(parameters), -1)
        scores: Array = product.reshape(len(product), *parameters.shape[1:])
        return scores


def _binary(targets: Array) -> Losses:
    """Of models whose one column is the log-odds of a label; `targets` is bool `(n, models)`."""
    from scipy.special import expit

    wanted = targets.astype(float)

    def losses(scores: Array) -> tuple[Array, Array]:
        return np.logaddexp(0, scores[:, :, 0]) - wanted * scores[:, :, 0], expit(scores) - wanted[:, :, None]

    return losses


def _multinomial(y: Array) -> Losses:
    """Of models with a column for each class."""

    def losses(scores: Array) -> tuple[Array, Array]:
        images = np.arange(len(scores))
        scores = scores - scores.max(axis=2, keepdims=True)
        errors = np.exp(scores)
        sums = errors.sum(axis=2)
        found = np.log(sums) - scores[images, :, y]
        errors /= sums[:, :, None]
        errors[images, :, y] -= 1
        return found, errors

    return losses
