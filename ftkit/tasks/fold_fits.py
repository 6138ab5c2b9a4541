"""Logistic regressions on the training parts of all folds, fitted at once to compare strengths of regularisation.

scikit-learn fits one model at a time. On few images its checks and SciPy's steps, thousands of times each, take many
times as long as the arithmetic. Here the models of all folds share each matrix product and each step of L-BFGS. Loss
and regularisation are those of scikit-learn's `LogisticRegression`, which fits the final head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ftkit.parts.metric import Array

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
    if x.shape[1] > len(x):
        # A solution is a weighted sum of the images, so coordinates in the space that they span are enough.
        x = np.asarray(np.linalg.qr(x.T, mode="r")).T
    classes = int(y.max()) + 1
    columns = classes if classes > 2 else 1
    step = max(1, MOST_VALUES // (max(len(x), x.shape[1] + 1) * columns))
    inputs = np.hstack([x, np.ones((len(x), 1))]) if intercept else x
    for first in range(0, len(weights), step):
        part = slice(first, first + step)
        problem = _FoldFits(inputs, y, weights[part], columns, intercept)
        found = []
        for strength in strengths:
            problem.fit(strength, tolerance)
            found.append(problem.classes())
        yield part, np.stack(found)


class _FoldFits:
    """The models of some folds; parameters are `(features, folds, columns)`, with the biases as the last row.

    Two classes have one column, the log-odds of the second one.
    """

    def __init__(self, inputs: Array, y: Array, weights: Array, columns: int, intercept: bool) -> None:
        self._inputs, self._y = inputs, y
        self._total = weights.sum(axis=1)
        self._shares = (weights / self._total[:, None]).T
        self._penalised = inputs.shape[1] - intercept
        self._parameters = np.zeros((inputs.shape[1], len(weights), columns))

    def fit(self, strength: float, tolerance: float) -> None:
        """Fit to a strength, from the current parameters on."""
        from scipy.optimize import minimize

        ridge = (1 / (strength * self._total))[:, None]

        def objective(values: Array) -> tuple[float, Array]:
            parameters = values.reshape(self._parameters.shape)
            losses, errors = self._loss(self._scores(parameters))
            errors *= self._shares[:, :, None]
            gradient = (self._inputs.T @ errors.reshape(len(errors), -1)).reshape(parameters.shape)
            penalised = parameters[: self._penalised]
            gradient[: self._penalised] += ridge * penalised
            return float((self._shares * losses).sum() + 0.5 * (ridge * penalised**2).sum()), gradient.ravel()

        options = {**OPTIONS, "gtol": tolerance}
        found = minimize(objective, self._parameters.ravel(), jac=True, method="L-BFGS-B", options=options)
        self._parameters = found.x.reshape(self._parameters.shape)

    def classes(self) -> Array:
        """The predicted class of each image by each fold's model, `(n, folds)`."""
        scores = self._scores(self._parameters)
        predicted: Array = scores.argmax(axis=2) if scores.shape[2] > 1 else (scores[:, :, 0] > 0).astype(int)
        return predicted

    def _scores(self, parameters: Array) -> Array:
        product = self._inputs @ parameters.reshape(len(parameters), -1)
        scores: Array = product.reshape(len(product), *parameters.shape[1:])
        return scores

    def _loss(self, scores: Array) -> tuple[Array, Array]:
        """Negative log-likelihoods `(n, folds)`, and their derivatives by the scores."""
        if scores.shape[2] == 1:
            from scipy.special import expit

            second = self._y[:, None]
            losses = np.logaddexp(0, scores[:, :, 0]) - second * scores[:, :, 0]
            return losses, expit(scores) - second[:, :, None]
        images = np.arange(len(scores))
        scores = scores - scores.max(axis=2, keepdims=True)
        errors = np.exp(scores)
        sums = errors.sum(axis=2)
        losses = np.log(sums) - scores[images, :, self._y]
        errors /= sums[:, :, None]
        errors[images, :, self._y] -= 1
        return losses, errors
