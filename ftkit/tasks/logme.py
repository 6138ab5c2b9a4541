"""LogME: how probable the targets are for a linear model on the features, without fitting one by cross-validation.

It is the logarithm of the evidence of Bayesian linear regression, at its largest over the precision of the prior and of
the noise (You, Liu, Wang and Long, LogME: Practical Assessment of Pre-trained Models for Transfer Learning, ICML 2021).
"""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits
from torch import Tensor

from ftkit.parts.metric import Array

ITERATIONS = 100
CLOSE = 1e-6
"""Relative change of the ratio of the precisions at which the search ends."""
SMALLEST = 1e-12


def logme(features: Tensor, targets: Tensor) -> float:
    """The largest log-evidence for each image, averaged over the classes; larger is better.

    Args:
        features: float32 `(n, features)`.
        targets: The probability of each class, float `(n, classes)`.
    """
    x, y = features.double().numpy(), targets.double().numpy()
    with threadpool_limits(limits=1):
        left, singular, _ = np.linalg.svd(x, full_matrices=False)
        found = [_largest(left.T @ column, singular**2, column, x.shape[1]) for column in y.T]
    return float(np.mean(found)) / len(x)


def _largest(projected: Array, eigenvalues: Array, target: Array, width: int) -> float:
    """The largest log-evidence of one target `(n,)`, by the fixed-point iteration of MacKay.

    Args:
        projected: The target in the basis of the features' left singular vectors.
        eigenvalues: The squares of the singular values.
        width: Number of features.
    """
    squares, count = projected**2, len(target)
    outside = max(float(target @ target - squares.sum()), 0.0)
    prior, noise = 1.0, 1.0
    for _ in range(ITERATIONS):
        ratio = prior / noise
        norm = float((eigenvalues * squares / (ratio + eigenvalues) ** 2).sum())
        error = float((squares / (1 + eigenvalues / ratio) ** 2).sum()) + outside
        effective = float((eigenvalues / (ratio + eigenvalues)).sum())
        prior, noise = effective / max(norm, SMALLEST), (count - effective) / max(error, SMALLEST)
        if abs(prior / noise - ratio) <= CLOSE * ratio:
            break
    return log_evidence(squares, eigenvalues, outside, (prior, noise), (count, width))


def log_evidence(
    squares: Array, eigenvalues: Array, outside: float, precisions: tuple[float, float], shape: tuple[int, int]
) -> float:
    """The logarithm of the density of a target under a linear model with Gaussian weights and noise.

    Args:
        squares: Squares of the target in the basis of the features' left singular vectors.
        eigenvalues: The squares of the singular values.
        outside: Square of the target's part outside of that basis.
        precisions: Of the prior of the weights, and of the noise.
        shape: Number of images, and of features.
    """
    (prior, noise), (count, width) = precisions, shape
    curvature = prior + noise * eigenvalues
    norm = float((noise**2 * eigenvalues * squares / curvature**2).sum())
    error = float(((prior / curvature) ** 2 * squares).sum()) + outside
    determinant = float(np.log(curvature).sum()) + (width - len(eigenvalues)) * np.log(prior)
    value = width * np.log(prior) + count * np.log(noise / (2 * np.pi)) - determinant - noise * error - prior * norm
    return float(value) / 2
