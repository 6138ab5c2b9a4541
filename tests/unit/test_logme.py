"""LogME against the density of the targets, computed directly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from ftkit.tasks.logme import logme


def direct(features: np.ndarray, targets: np.ndarray) -> float:
    """The largest log-density of targets under N(0, F F' / prior + I / noise), for each image, by a general search."""

    def loss(logs: np.ndarray, column: np.ndarray) -> float:
        prior, noise = np.exp(logs)
        covariance = features @ features.T / prior + np.eye(len(features)) / noise
        return -float(multivariate_normal(np.zeros(len(features)), covariance).logpdf(column))

    found = [
        min(minimize(loss, start, (column,), "Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}).fun
            for start in ((0.0, 0.0), (2.0, 2.0)))
        for column in targets.T
    ]  # fmt: skip
    return -float(np.mean(found)) / len(features)


@pytest.mark.parametrize(("images", "width"), [(40, 6), (20, 30)])
def test_it_is_the_largest_evidence(images: int, width: int) -> None:
    """With fewer features than images, and with more."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(images, width, generator=generator)
    labels = (features[:, 0] + 0.5 * torch.randn(images, generator=generator) > 0).long()
    targets = torch.nn.functional.one_hot(labels, 2).float()
    expected = direct(features.double().numpy(), targets.double().numpy())
    assert logme(features, targets) == pytest.approx(expected, abs=1e-4)


def test_features_that_tell_the_classes_apart_are_better() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    targets = torch.nn.functional.one_hot(labels, 3).float()
    noise = torch.randn(60, 10, generator=generator)
    good = noise.clone()
    good[:, :3] += 4 * targets
    assert logme(good, targets) > logme(noise, targets) + 0.1
