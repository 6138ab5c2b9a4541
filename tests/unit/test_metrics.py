"""Metrics that runs are compared by, against hand-computed ones and scikit-learn's."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor

from ftkit.config.choices import MONITORS
from ftkit.errors import RequestError
from ftkit.metrics.classification import ClassScores, Evaluation, evaluate_outputs
from ftkit.metrics.names import METRICS, check_monitor, is_better


def decided(predictions: list[int], classes: int, margin: float = 10.0) -> Tensor:
    """Logits whose greatest is at each prediction."""
    return margin * torch.nn.functional.one_hot(torch.tensor(predictions), classes).float()


def sure(rows: list[list[float]], labels: list[int]) -> Evaluation:
    """The metrics for answers of these probabilities."""
    return evaluate_outputs(
        torch.tensor(rows, dtype=torch.float64).log(), torch.tensor(labels), tuple("abcdefgh"[: len(rows[0])])
    )


def test_small_case_by_hand() -> None:
    #            cat taken for cat, cat, dog; dog taken for dog; no owl, one dog taken for owl
    evaluation = evaluate_outputs(decided([0, 0, 1, 1, 2], 3), torch.tensor([0, 0, 0, 1, 1]), ("cat", "dog", "owl"))
    assert evaluation.confusion == ((2, 1, 0), (0, 1, 1), (0, 0, 0))
    assert evaluation.accuracy == 3 / 5
    assert evaluation.per_class == (
        ClassScores("cat", precision=1.0, recall=2 / 3, f1=0.8, support=3),
        ClassScores("dog", precision=0.5, recall=0.5, f1=0.5, support=2),
        ClassScores("owl", precision=0.0, recall=0.0, f1=0.0, support=0),
    )
    assert evaluation.macro_f1 == pytest.approx(0.65), "owl has no image, so it doesn't count"
    assert evaluation.images == 5


def test_loss_is_the_mean_cross_entropy() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    assert evaluate_outputs(logits, torch.tensor([0, 1]), ("a", "b")).loss == pytest.approx(
        (math.log(2) + math.log(4)) / 2
    )


def test_rates_are_exact_in_double_precision() -> None:
    labels = torch.zeros(2000, dtype=torch.long)
    evaluation = evaluate_outputs(decided([0] * 1627 + [1] * 373, 2), labels, ("a", "b"))
    assert evaluation.accuracy == 0.8135
    assert evaluation.to_json()["accuracy"] == 0.8135


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels, predictions = generator.integers(0, 6, 200), generator.integers(0, 7, 200)
    names = tuple("abcdefg")
    evaluation = evaluate_outputs(decided(predictions.tolist(), 7), torch.tensor(labels), names)
    every = list(range(7))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predictions, labels=every, zero_division=0
    )
    assert [list(row) for row in evaluation.confusion] == metrics.confusion_matrix(
        labels, predictions, labels=every
    ).tolist()
    assert [c.precision for c in evaluation.per_class] == pytest.approx(precision.tolist())
    assert [c.recall for c in evaluation.per_class] == pytest.approx(recall.tolist())
    assert [c.f1 for c in evaluation.per_class] == pytest.approx(f1.tolist())
    assert [c.support for c in evaluation.per_class] == support.tolist()
    assert evaluation.accuracy == pytest.approx(metrics.accuracy_score(labels, predictions))
    assert evaluation.macro_f1 == pytest.approx(
        metrics.f1_score(labels, predictions, labels=sorted(set(labels)), average="macro")
    )


def test_one_image_is_enough() -> None:
    evaluation = evaluate_outputs(decided([1], 2), torch.tensor([1]), ("a", "b"))
    assert (evaluation.accuracy, evaluation.macro_f1, evaluation.images) == (1.0, 1.0, 1)


def test_a_loss_that_is_no_number_is_null_in_json() -> None:
    evaluation = evaluate_outputs(torch.full((2, 2), math.nan), torch.tensor([0, 1]), ("a", "b"))
    assert math.isnan(evaluation.loss)
    assert json.loads(json.dumps(evaluation.to_json(), allow_nan=False))["loss"] is None


def test_json_says_everything_by_class_name() -> None:
    evaluation = evaluate_outputs(decided([0, 1, 1], 2), torch.tensor([0, 1, 0]), ("ant", "bee"))
    assert json.loads(json.dumps(evaluation.to_json())) == {
        "images": 3,
        "loss": pytest.approx(evaluation.loss),
        "accuracy": 2 / 3,
        "macro_f1": pytest.approx(2 / 3),
        "weighted_f1": pytest.approx(2 / 3),
        "auroc": pytest.approx(3 / 4),
        "calibration_error": pytest.approx(1 / 3, abs=1e-4),
        "missing": {},
        "classes": [
            {"name": "ant", "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2},
            {"name": "bee", "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1},
        ],
        "confusion": [[1, 1], [0, 1]],
    }


def test_weighted_f1_counts_each_class_by_its_images() -> None:
    #                        F1 of cat 0.8 on 3 images, of dog 0.5 on 2
    evaluation = evaluate_outputs(decided([0, 0, 1, 1, 2], 3), torch.tensor([0, 0, 0, 1, 1]), ("cat", "dog", "owl"))
    assert evaluation.weighted_f1 == pytest.approx((3 * 0.8 + 2 * 0.5) / 5)


def test_top5_looks_at_the_five_likeliest_of_six_classes() -> None:
    logits = torch.tensor([[6.0, 5, 4, 3, 2, 1], [6.0, 5, 4, 3, 2, 1], [1.0, 2, 3, 4, 5, 6]])
    evaluation = evaluate_outputs(logits, torch.tensor([4, 5, 1]), tuple("abcdef"))
    assert evaluation.top5 == 2 / 3
    assert evaluation.summary["top5"] == 2 / 3


def test_top5_is_no_metric_of_five_classes() -> None:
    evaluation = evaluate_outputs(decided([0, 1], 5), torch.tensor([0, 1]), tuple("abcde"))
    assert evaluation.top5 is None
    assert "top5" not in evaluation.summary
    assert "top5" not in evaluation.to_json()


def test_auroc_by_hand() -> None:
    """Of the 2 x 2 pairs of one image of b and one of a, three are in the right order and one ties."""
    evaluation = sure([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.2, 0.8]], [0, 0, 1, 1])
    assert evaluation.auroc == pytest.approx(3.5 / 4)


def test_auroc_tells_sure_answers_apart_that_single_precision_doesnt() -> None:
    logits = torch.tensor([[0.0, 30.0], [0.0, 31.0], [0.0, 32.0], [0.0, 33.0]])
    assert evaluate_outputs(logits, torch.tensor([0, 0, 1, 1]), ("a", "b")).auroc == pytest.approx(1.0)


def test_auroc_never_exceeds_one() -> None:
    for images in range(20, 200, 7):
        labels = torch.arange(images) % 7
        auroc = evaluate_outputs(decided(labels.tolist(), 7), labels, tuple("abcdefg")).auroc
        assert auroc is not None
        assert 1 - 1e-6 < auroc <= 1


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([0, 1, 1], "no image is of class 'owl'"),
        ([2, 2, 2], "all images are of class 'owl'"),
    ],
)
def test_auroc_without_positives_or_negatives_is_missing_and_says_why(labels: list[int], reason: str) -> None:
    evaluation = evaluate_outputs(decided(labels, 3), torch.tensor(labels), ("cat", "dog", "owl"))
    assert evaluation.auroc is None
    assert evaluation.to_json()["auroc"] is None
    assert evaluation.to_json()["missing"] == {"auroc": reason}


def test_calibration_error_by_hand() -> None:
    """Four answers in two bins: 0.9 sure and half right, 0.7 sure and all right."""
    evaluation = sure([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.3, 0.7]], [0, 1, 1, 1])
    assert evaluation.calibration_error == pytest.approx(0.5 * 0.4 + 0.5 * 0.3)


def test_complete_certainty_shares_the_uppermost_bin() -> None:
    """Right at 0.95 and wrong at 1: one bin, half right, 0.975 sure. Two bins would make it 0.525."""
    logits = torch.tensor([[math.log(0.95), math.log(0.05)], [1000.0, 0.0]])
    evaluation = evaluate_outputs(logits, torch.tensor([0, 1]), ("a", "b"))
    assert evaluation.calibration_error == pytest.approx(0.475)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_probabilities_agree_with_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits, labels = generator.normal(size=(300, 7)), generator.permutation(np.arange(300) % 7)
    logits[np.arange(300), labels] += 1
    evaluation = evaluate_outputs(torch.tensor(logits), torch.tensor(labels), tuple("abcdefg"))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert evaluation.loss == pytest.approx(metrics.log_loss(labels, probabilities))
    assert evaluation.top5 == pytest.approx(metrics.top_k_accuracy_score(labels, probabilities, k=5))
    assert evaluation.auroc == pytest.approx(metrics.roc_auc_score(labels, probabilities, multi_class="ovr"), abs=1e-6)
    assert evaluation.weighted_f1 == pytest.approx(metrics.f1_score(labels, logits.argmax(axis=1), average="weighted"))
    assert evaluation.calibration_error == pytest.approx(plain_calibration_error(probabilities, labels), abs=1e-6)


def plain_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """As the papers define it, written out."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    total = 0.0
    for low in range(15):
        inside = (confidence >= low / 15) & (confidence < (low + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def test_outputs_that_are_no_numbers_make_metrics_that_are_none() -> None:
    logits = torch.full((4, 6), math.nan)
    found = evaluate_outputs(logits, torch.tensor([0, 1, 2, 3]), tuple("abcdef")).to_json()
    assert (found["loss"], found["auroc"], found["calibration_error"]) == (None, None, None)


def test_two_thousand_images_take_milliseconds() -> None:
    logits, labels = torch.randn(2000, 10), torch.arange(2000) % 10
    names = tuple("abcdefghij")
    evaluate_outputs(logits, labels, names)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        evaluate_outputs(logits, labels, names)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.1


def test_every_metric_can_be_monitored() -> None:
    assert tuple(METRICS) == MONITORS
    evaluation = evaluate_outputs(decided([0, 1, 2, 3, 4, 5], 6), torch.arange(6), tuple("abcdef"))
    assert set(evaluation.summary) == set(MONITORS)


@pytest.mark.parametrize("metric", MONITORS)
def test_lower_is_better_of_loss_and_calibration_error_only(metric: str) -> None:
    lower = metric in ("loss", "calibration_error")
    assert is_better(metric, 0.2, 0.5) is lower
    assert is_better(metric, 0.5, 0.2) is not lower
    assert not is_better(metric, 0.5, 0.5)
    assert is_better(metric, 0.5, None)
    assert is_better(metric, 0.5, math.nan), "or a first epoch that isn't a number would stay the best"
    assert not is_better(metric, math.nan, 0.5)


@pytest.mark.parametrize(
    ("metric", "labels", "message"),
    [
        ("top5", [0, 1, 2], "top5 of 3 classes says nothing: it wants more than 5"),
        ("auroc", [0, 0, 1], "no image is of class 'owl'"),
        ("auroc", [1, 1, 1], "all images are of class 'dog'"),
    ],
)
def test_a_metric_that_the_data_lacks_cant_choose_epochs(metric: str, labels: list[int], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        check_monitor(metric, labels, ("cat", "dog", "owl"), "--monitor")
    assert caught.value.message.startswith("--monitor: ")
    assert "--monitor" in (caught.value.hint or "")
    check_monitor("macro_f1", labels, ("cat", "dog", "owl"), "--monitor")
