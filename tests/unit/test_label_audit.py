"""Confident learning against recorded values of cleanlab, and outliers and folds on constructed features."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch

from ftkit.api import Splits
from ftkit.data_quality.dataset_request import LoadedData
from ftkit.data_quality.label_audit.audit import LABEL, OUTLIER, AuditedImage, LabelAudit
from ftkit.data_quality.label_audit.confident_learning import (
    confident_joint,
    find_label_errors,
    find_label_set_errors,
    overlapping_classes,
)
from ftkit.data_quality.label_audit.neighbours import neighbour_distances, outliers
from ftkit.data_quality.label_audit.out_of_fold_probe import choose_folds, components, probe_scores


def noisy() -> tuple[np.ndarray, np.ndarray]:
    """Scores of 60 images of 4 classes, and labels of which the first 6 are wrong."""
    rng = np.random.default_rng(7)
    true = rng.integers(0, 4, 60)
    logits = rng.normal(size=(60, 4))
    logits[np.arange(60), true] += 2
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = true.copy()
    labels[:6] = (true[:6] + 1) % 4
    return scores, labels


def test_the_same_as_cleanlab() -> None:
    """cleanlab 2.9.0: compute_confident_joint(labels, scores, calibrate=False), and find_label_issues(labels, scores,
    filter_by="low_self_confidence", return_indices_ranked_by="self_confidence")."""
    scores, labels = noisy()
    assert confident_joint(scores, labels).tolist() == [[9, 0, 1, 2], [0, 9, 0, 0], [0, 0, 6, 0], [0, 0, 2, 10]]
    found = find_label_errors(scores, labels, np.ones(60, dtype=np.bool_))
    assert found.rows.tolist() == [3, 0, 2, 5, 1]
    assert found.suggested.tolist() == scores.argmax(axis=1)[found.rows].tolist()
    # Rows of the joint are scaled to the shares of the labels: class 0 has 16 of 60, 3 of its 12 counts are elsewhere.
    counts = np.bincount(labels)
    expected = (counts[0] * 3 / 12 + counts[3] * 2 / 12) / 60
    assert found.rate == np.float64(expected).round(15) or abs(found.rate - expected) < 1e-12


def test_images_without_scores_are_left_out() -> None:
    scores, labels = noisy()
    scores[3], has_scores = 0, np.arange(60) != 3
    assert find_label_errors(scores, labels, has_scores).rows.tolist() == [0, 2, 5, 1]


def test_overlapping_classes_are_those_off_the_diagonal() -> None:
    joint = np.array([[0.3, 0.1, 0.0], [0.05, 0.25, 0.0], [0.0, 0.02, 0.28]])
    assert [(a, b, round(share, 6)) for a, b, share in overlapping_classes(joint)] == [(0, 1, 0.15), (1, 2, 0.02)]


def test_several_labels_are_checked_one_by_one() -> None:
    rng = np.random.default_rng(0)
    true = rng.random((200, 3)) < 0.4
    scores = np.where(true, 0.9, 0.1) + rng.normal(scale=0.02, size=true.shape)
    scores[:2] = np.where(true[:2], 0.99, 0.01)
    given = true.copy()
    given[0, 1], given[1, 2] = ~true[0, 1], ~true[1, 2]
    wrong, own = find_label_set_errors(scores, given)
    assert np.argwhere(wrong).tolist() == [[0, 1], [1, 2]]
    assert np.isclose(own[0], [0.99, 0.01, 0.99]).all()
    # A class that all images have can't be checked.
    assert not find_label_set_errors(scores, np.ones_like(given))[0].any()


def test_the_farthest_images_are_outliers() -> None:
    rng = np.random.default_rng(0)
    features = np.zeros((202, 8))
    features[:, 0] = 1
    features[:, 1:4] += rng.uniform(-0.1, 0.1, size=(202, 3))
    features[150], features[77] = np.eye(8)[6], np.eye(8)[7] + 0.4 * np.eye(8)[0]
    features[201] = features[0]  # A copy isn't a neighbour, so that it makes nothing look close.
    distances = neighbour_distances(torch.from_numpy(features).float())
    assert outliers(distances).tolist() == [150, 77]
    assert distances[201] == distances[0] > 1e-5
    # Neither the image itself nor its copy is a neighbour.
    corners = torch.eye(3)[[0, 1, 0, 2]]
    assert neighbour_distances(corners).tolist() == [1, 1, 1, 1]
    assert neighbour_distances(torch.ones(1, 4)).tolist() == [0]
    assert outliers(np.empty(0)).tolist() == []


def test_outliers_are_listed_by_distance_and_label_errors_by_score() -> None:
    images = tuple(
        AuditedImage(row, "train", f"{row}.png", "a", "b", problems, score, distance)
        for row, (problems, score, distance) in enumerate(
            [((LABEL,), 0.1, 1.0), ((LABEL, OUTLIER), 0.2, 2.0), ((OUTLIER,), 0.9, 3.0)]
        )
    )
    data = LoadedData("data", cast(Any, None), Splits(("a", "b"), None))
    audit = LabelAudit(data, "a probe", 0.9, 0.1, images, (), ())
    assert [image.row for image in audit.having(LABEL)] == [0, 1]
    assert [image.row for image in audit.having(OUTLIER)] == [2, 1]


def test_copies_are_in_one_fold_and_classes_in_all() -> None:
    labels = np.repeat(np.arange(4), 25)
    groups = np.arange(100)
    groups[[30, 60, 90]] = 2
    folds = choose_folds(labels, groups, seed=3)
    assert set(folds[[2, 30, 60, 90]]) == {folds[2]}
    counts = np.array([np.bincount(folds[labels == label], minlength=5) for label in range(4)])
    assert np.abs(counts - 5).max() <= 3
    plain = choose_folds(labels, np.arange(100), seed=3)
    assert [np.bincount(plain[labels == label]).tolist() for label in range(4)] == [[5] * 5] * 4


def test_scores_are_of_models_without_the_image() -> None:
    """Features that identify each image and nothing else: a model that had seen an image would know its label."""
    labels = np.random.default_rng(0).integers(0, 2, 300)
    x = components(torch.eye(300))
    assert x.shape == (300, 256)
    scores, has_scores = probe_scores(x, labels, choose_folds(labels, np.arange(300), 0), 2, seed=0)
    assert has_scores.all()
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert abs((scores.argmax(axis=1) == labels).mean() - 0.5) < 0.1


def test_a_class_of_one_image_has_no_scores() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0] * 20 + [1] * 20 + [2])
    x = rng.normal(size=(41, 6)).astype(np.float32)
    x[np.arange(41), labels] += 4
    scores, has_scores = probe_scores(x, labels, choose_folds(labels, np.arange(41), 0), 3, seed=0)
    assert has_scores.tolist() == [True] * 40 + [False]
    assert scores[40, 2] == 0
    assert (scores[:40].argmax(axis=1) == labels[:40]).all()
