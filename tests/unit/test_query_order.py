"""The order of labelling: margins, uncertain and diverse images, and typical images of clusters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ftkit.data_quality.label_queue.query_order import choose_strategy, margins, typical, uncertain_and_diverse


def clusters(sizes: list[int], spread: float = 0.02) -> Tensor:
    """Features around one axis for each cluster; the first of each is at its centre."""
    parts = []
    generator = torch.Generator().manual_seed(0)
    for axis, size in enumerate(sizes):
        part = torch.eye(8)[axis] + spread * torch.randn(size, 8, generator=generator)
        part[0] = torch.eye(8)[axis]
        parts.append(part)
    return torch.cat(parts)


def test_margins() -> None:
    scores = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
    assert margins(scores, exclusive=True).tolist() == pytest.approx([0.2, 0.7])
    assert margins(torch.tensor([[0.9, 0.45], [0.0, 1.0]]), exclusive=False).tolist() == pytest.approx([0.1, 1.0])


def test_typical_images_are_the_centres_of_the_largest_clusters() -> None:
    features = clusters([30, 50, 20])
    assert typical(features, torch.empty(0, 8), 3, seed=0).tolist() == [30, 0, 80]


def test_clusters_with_labelled_images_come_later() -> None:
    features = clusters([30, 50, 20])
    labelled = torch.eye(8)[1][None].repeat(4, 1) + 1e-3
    # Seven clusters for 100 images and 4 labelled ones: that of the labelled ones isn't chosen first.
    first = typical(features, labelled, 2, seed=0)
    assert 30 not in first
    assert len(set(first.tolist())) == 2


def test_every_image_is_chosen_once() -> None:
    features = clusters([3, 2])
    assert sorted(typical(features, torch.empty(0, 8), 9, seed=0).tolist()) == list(range(5))
    assert sorted(uncertain_and_diverse(features, np.zeros(5), 9, seed=0).tolist()) == list(range(5))
    same = torch.ones(6, 8)
    assert sorted(uncertain_and_diverse(same, np.zeros(6), 4, seed=0).tolist()) == [0, 1, 2, 3]


def test_uncertain_images_are_spread_over_the_clusters() -> None:
    features = clusters([40, 40, 40])
    margin = np.full(120, 0.9)
    margin[[5, 6, 7, 45, 46, 85, 86]] = 0.01
    for seed in range(5):
        found = uncertain_and_diverse(features, margin, 3, seed)
        assert sorted(found // 40) == [0, 1, 2]


def test_only_the_most_uncertain_are_considered() -> None:
    features = clusters([100])
    margin = np.linspace(1, 0, 100)
    assert uncertain_and_diverse(features, margin, 2, seed=0).min() >= 80


def test_the_strategy_follows_the_number_of_labelled_images() -> None:
    assert [choose_strategy(count, 10) for count in (0, 199, 200)] == ["typical", "typical", "uncertain"]
