"""Distances to the features of training images, and the file that keeps them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from sklearn.neighbors import NearestNeighbors

from ftkit.errors import RequestError
from ftkit.uncertainty.feature_reference import (
    MOST_IMAGES,
    MOST_VALUES,
    FeatureReference,
    make_reference,
    most_images,
    read_reference,
    write_reference,
)
from ftkit.uncertainty.novelty import novelties


def drawn(images: int, seed: int, mean: float = 1.0) -> tuple[torch.Tensor, np.ndarray]:
    """Features and energies."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, 20, generator=generator) + mean * torch.eye(20)[0] * 4
    return features, torch.randn(images, generator=generator).double().numpy()


def reference() -> FeatureReference:
    features, _ = drawn(300, 0)
    others, energy = drawn(1000, 1)
    return make_reference(features, energy, others)


def test_distances_are_those_of_the_tenth_neighbour() -> None:
    features, _ = drawn(300, 0)
    others, _ = drawn(50, 2)
    expected = NearestNeighbors(n_neighbors=10, metric="cosine").fit(features.numpy())
    found = reference().distances(others)
    assert found == pytest.approx(expected.kneighbors(others.numpy())[0][:, -1], abs=1e-3)
    energy = np.zeros(300)
    own = make_reference(features, energy, None)
    assert own.distances(features, itself=True) == pytest.approx(expected.kneighbors()[0][:, -1], abs=1e-3)


def test_novelty_is_uniform_for_images_like_the_reference_and_low_for_others() -> None:
    known = reference()

    def novelty(mean: float) -> np.ndarray:
        features, energy = drawn(1000, 3, mean)
        return novelties(known.sums(energy, known.distances(features)), known.values.tolist(), int(known.images))

    assert kstest(novelty(1.0), "uniform").pvalue > 0.01
    assert (novelty(-1.0) <= 0.05).mean() > 0.5, "the energy is as usual, the features are not"


def test_energy_and_distance_count_alike() -> None:
    known = reference()
    features, _ = drawn(1000, 1)
    distance = known.distances(features)
    middle, step = float(known.centre[0]), float(known.spread[0])
    sums = known.sums(np.array([middle, middle + step]), np.full(2, distance.mean()))
    assert sums == pytest.approx([0, 1], abs=1e-9)


def test_equal_images_are_no_division_by_zero() -> None:
    features, energy = torch.ones(60, 4), np.ones(60)
    known = make_reference(features, energy, None)
    assert np.isfinite(known.sums(energy, known.distances(features))).all()


def test_the_number_of_images_is_limited_by_the_width() -> None:
    assert most_images(512) == MOST_IMAGES
    assert most_images(4096) * 4096 <= MOST_VALUES < (most_images(4096) + 1) * 4096


def test_a_file_is_read_as_written_or_refused(tmp_path: Path) -> None:
    known = reference()
    assert read_reference(tmp_path, "a") is None
    write_reference(tmp_path, "a", known)
    found = read_reference(tmp_path, "a")
    assert found is not None
    for name in ("features", "centre", "spread", "values", "images"):
        assert torch.equal(getattr(found, name), getattr(known, name)), name
    with pytest.raises(RequestError, match=r"features\.safetensors can't be used: it belongs to another model"):
        read_reference(tmp_path, "b")
    file = tmp_path / "features.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(RequestError, match=r"features\.safetensors can't be used"):
        read_reference(tmp_path, "a")
