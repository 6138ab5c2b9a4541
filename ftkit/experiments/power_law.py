"""Extrapolation of a learning curve: the error falls as a power of the number of images, toward a floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ftkit.metrics.bootstrap import Interval, interval
from ftkit.parts.metric import Array

EXPONENTS = np.arange(0.05, 1.55, 0.05)
"""Exponents that are tried."""


@dataclass(frozen=True, eq=False)
class CurvePoints:
    """Errors of a model on the same images, trained on several numbers of images.

    Attributes:
        sizes: Numbers of training images, ascending, int64 `(k,)`.
        errors: The mean over samples of so many images, on each bootstrap resample of the evaluated images, float64
            `(resamples, k)`.
        spread: The standard deviation of the error over samples of n training images is `spread / sqrt(n)`.
        samples: Number of samples of each size, int64 `(k,)`.
    """

    sizes: Array
    errors: Array
    spread: float
    samples: Array


def pooled_spread(sizes: Array, errors: Sequence[Sequence[float]]) -> float:
    """`CurvePoints.spread` of the errors of the samples of each size; 0 where no size has two samples."""
    scaled = [np.var(each, ddof=1) * size for size, each in zip(sizes.tolist(), errors, strict=True) if len(each) > 1]
    return float(np.sqrt(np.mean(scaled))) if scaled else 0.0


def extrapolate(points: CurvePoints, sizes: Sequence[int], seed: int = 0) -> list[tuple[float, Interval]]:
    """The median error and its 95 % interval for other numbers of training images.

    On each resample the curve is fitted again, with noise of the size that other training samples cause: `a + b n^-c`
    with a and b of 0 or more, by least squares that count larger sizes more.

    Returns:
        For each of `sizes` the error of a model that is trained on one sample of so many images.
    """
    rng = np.random.default_rng(seed)
    noise = points.spread / np.sqrt(points.sizes * points.samples)
    errors = points.errors + rng.standard_normal(points.errors.shape) * noise
    floors, factors, exponents = _fit(points.sizes.astype(float), errors)
    found = []
    for size in sizes:
        predicted = floors + factors * float(size) ** -exponents
        predicted = predicted + rng.standard_normal(len(predicted)) * points.spread / np.sqrt(size)
        found.append((float(np.median(predicted)), interval(predicted.clip(min=0))))
    return found


def _fit(sizes: Array, errors: Array) -> tuple[Array, Array, Array]:
    """The floor, factor and exponent of each row of errors `(rows, k)`."""
    weights = np.sqrt(sizes / sizes.sum())
    weights = weights / weights.sum()
    best = np.full(len(errors), np.inf)
    floors, factors, exponents = (np.zeros(len(errors)) for _ in range(3))
    middle = errors @ weights
    for exponent in EXPONENTS:
        x = (sizes / sizes[-1]) ** -exponent
        centred = x - x @ weights
        factor = (errors * (weights * centred)).sum(axis=1) / (weights * centred**2).sum()
        floor = middle - factor * (x @ weights)
        through_zero = (errors * (weights * x)).sum(axis=1) / (weights * x**2).sum()
        factor = np.where(floor < 0, through_zero, factor)
        floor = np.where(floor < 0, 0.0, floor)
        floor, factor = np.where(factor < 0, middle, floor), factor.clip(min=0)
        loss = ((errors - floor[:, None] - factor[:, None] * x) ** 2 * weights).sum(axis=1)
        better = loss < best
        best, floors = np.where(better, loss, best), np.where(better, floor, floors)
        factors = np.where(better, factor * sizes[-1] ** exponent, factors)
        exponents = np.where(better, exponent, exponents)
    return floors, factors, exponents
