"""The parameters of temperature and vector scaling with the lowest log loss.

With `n` images, a target counts as the true label in `n + 1` of `n + 2` cases, and as the likeliest other one in the
rest (Platt, Probabilistic Outputs for Support Vector Machines, 1999). Without that, a model that is right on each of a
few images would be given a temperature of 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ftkit.parts.metric import Array

LEAST_SCALE, MOST_SCALE = 0.02, 50.0
ITERATIONS = 100

Scaling = tuple[tuple[float, ...], tuple[float, ...]]
"""Factors and summands, as `Calibration` has them."""
LossAndSlope = Callable[[Tensor], tuple[Tensor, Tensor]]


def fit_temperature(logits: Tensor, targets: Tensor) -> Scaling:
    """One factor for all logits: the inverse of the temperature, from 0.02 to 50.

    Args:
        logits: float64 `(n, classes)`, finite.
        targets: Class indices `(n,)`, or 1 for each class of an image `(n, classes)`.
    """
    from scipy.optimize import root_scalar

    slope = _slope_by_scale(logits, targets)
    low, high = math.log(LEAST_SCALE), math.log(MOST_SCALE)
    # The loss is convex in the factor, so that its slope has one zero at most.
    if slope(LEAST_SCALE) >= 0:
        return (LEAST_SCALE,), ()
    if slope(MOST_SCALE) <= 0:
        return (MOST_SCALE,), ()
    found = root_scalar(lambda at: slope(math.exp(at)), bracket=(low, high), method="brentq", xtol=1e-5)
    return (math.exp(found.root),), ()


def _slope_by_scale(logits: Tensor, targets: Tensor) -> Callable[[float], float]:
    """The derivative of the mean loss with respect to the factor of all logits."""
    smoothing = 1 / (len(logits) + 2)
    if targets.ndim == 1:
        own = logits.gather(1, targets[:, None])
        margins = logits - own
        rivals = margins.scatter(1, targets[:, None], -math.inf).amax(dim=1).mean().item()

        def multiclass(scale: float) -> float:
            shares = (margins * scale).softmax(dim=1)
            return (shares * margins).sum().item() / len(margins) - smoothing * rivals

        return multiclass
    margins = logits * (1 - 2 * targets.double())
    mean = margins.mean().item()
    return lambda scale: ((margins * scale).sigmoid() * margins).mean().item() - smoothing * mean


def fit_vector(logits: Tensor, targets: Tensor) -> Scaling:
    """A factor and a summand for each class; args as above.

    A Gaussian prior holds the factors near that of temperature scaling and the summands near 0: of standard deviation
    1, for factors relative to that factor.
    """
    from scipy.optimize import Bounds, minimize

    ((shared,), _), classes = fit_temperature(logits, targets), logits.shape[1]
    scaled = logits * shared
    loss = _softmax_loss(scaled, targets) if targets.ndim == 1 else _sigmoid_loss(scaled, targets)
    centre = np.concatenate([np.ones(classes), np.zeros(classes)])

    def total(parameters: Array) -> tuple[float, Array]:
        scale, bias = (torch.from_numpy(part) for part in np.split(parameters, 2))
        value, slope = loss(scaled * scale + bias)
        gradient = torch.cat([(slope * scaled).sum(dim=0), slope.sum(dim=0)]).numpy()
        off = parameters - centre
        return value.item() + float(off @ off) / 2, gradient + off

    lowest = np.concatenate([np.full(classes, LEAST_SCALE), np.full(classes, -np.inf)])
    found = minimize(total, centre, jac=True, method="L-BFGS-B", bounds=Bounds(lowest), options={"maxiter": ITERATIONS})
    scale, bias = np.split(found.x, 2)
    return tuple((scale * shared).tolist()), tuple(bias.tolist())


def _softmax_loss(logits: Tensor, targets: Tensor) -> LossAndSlope:
    """The summed cross entropy with smoothed targets, and its derivative by the logits."""
    smoothing, own = 1 / (len(logits) + 2), targets[:, None]
    rival = logits.scatter(1, own, -math.inf).argmax(dim=1, keepdim=True)
    wanted = torch.zeros_like(logits).scatter_(1, own, 1 - smoothing).scatter_(1, rival, smoothing)

    def loss(calibrated: Tensor) -> tuple[Tensor, Tensor]:
        logs = calibrated.log_softmax(dim=1)
        return -(wanted * logs).sum(), logs.exp_() - wanted

    return loss


def _sigmoid_loss(logits: Tensor, targets: Tensor) -> LossAndSlope:
    """The same for the binary cross entropy, summed over classes."""
    smoothing = 1 / (len(logits) + 2)
    wanted = targets.double() * (1 - 2 * smoothing) + smoothing

    def loss(calibrated: Tensor) -> tuple[Tensor, Tensor]:
        softplus = torch.nn.functional.softplus(calibrated)
        return (softplus - wanted * calibrated).sum(), calibrated.sigmoid() - wanted

    return loss
