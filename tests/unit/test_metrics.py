"""Figures that runs are compared by, against hand-computed ones and scikit-learn's."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor

from ftkit.engine.metrics import ClassScores, score


def decided(predictions: list[int], classes: int, margin: float = 10.0) -> Tensor:
    """Logits whose greatest is at each prediction."""
    return margin * torch.nn.functional.one_hot(torch.tensor(predictions), classes).float()


def test_small_case_by_hand() -> None:
    #            cat taken for cat, cat, dog; dog taken for dog; no owl, one dog taken for owl
    scores = score(decided([0, 0, 1, 1, 2], 3), torch.tensor([0, 0, 0, 1, 1]), ("cat", "dog", "owl"))
    assert scores.confusion == ((2, 1, 0), (0, 1, 1), (0, 0, 0))
    assert scores.accuracy == 3 / 5
    assert scores.per_class == (
        ClassScores("cat", precision=1.0, recall=2 / 3, f1=0.8, support=3),
        ClassScores("dog", precision=0.5, recall=0.5, f1=0.5, support=2),
        ClassScores("owl", precision=0.0, recall=0.0, f1=0.0, support=0),
    )
    assert scores.macro_f1 == pytest.approx(0.65), "owl has no image, so it doesn't count"
    assert scores.images == 5


def test_loss_is_the_mean_cross_entropy() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    assert score(logits, torch.tensor([0, 1]), ("a", "b")).loss == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_rates_are_exact_in_double_precision() -> None:
    labels = torch.zeros(2000, dtype=torch.long)
    scores = score(decided([0] * 1627 + [1] * 373, 2), labels, ("a", "b"))
    assert scores.accuracy == 0.8135
    assert scores.to_json()["accuracy"] == 0.8135


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels, predictions = generator.integers(0, 6, 200), generator.integers(0, 7, 200)
    names = tuple("abcdefg")
    scores = score(decided(predictions.tolist(), 7), torch.tensor(labels), names)
    every = list(range(7))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predictions, labels=every, zero_division=0
    )
    assert [list(row) for row in scores.confusion] == metrics.confusion_matrix(
        labels, predictions, labels=every
    ).tolist()
    assert [c.precision for c in scores.per_class] == pytest.approx(precision.tolist())
    assert [c.recall for c in scores.per_class] == pytest.approx(recall.tolist())
    assert [c.f1 for c in scores.per_class] == pytest.approx(f1.tolist())
    assert [c.support for c in scores.per_class] == support.tolist()
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(labels, predictions))
    assert scores.macro_f1 == pytest.approx(
        metrics.f1_score(labels, predictions, labels=sorted(set(labels)), average="macro")
    )


def test_one_image_is_enough() -> None:
    scores = score(decided([1], 2), torch.tensor([1]), ("a", "b"))
    assert (scores.accuracy, scores.macro_f1, scores.images) == (1.0, 1.0, 1)


def test_a_loss_that_is_no_number_is_null_in_json() -> None:
    scores = score(torch.full((2, 2), math.nan), torch.tensor([0, 1]), ("a", "b"))
    assert math.isnan(scores.loss)
    assert json.loads(json.dumps(scores.to_json(), allow_nan=False))["loss"] is None


def test_json_says_everything_by_class_name() -> None:
    scores = score(decided([0, 1, 1], 2), torch.tensor([0, 1, 0]), ("ant", "bee"))
    assert json.loads(json.dumps(scores.to_json())) == {
        "images": 3,
        "loss": pytest.approx(scores.loss),
        "accuracy": 2 / 3,
        "macro_f1": pytest.approx(2 / 3),
        "classes": [
            {"name": "ant", "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2},
            {"name": "bee", "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1},
        ],
        "confusion": [[1, 1], [0, 1]],
    }
