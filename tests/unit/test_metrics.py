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

from ftkit.errors import RequestError
from ftkit.metrics.bootstrap import wilson
from ftkit.metrics.report import ClassScores, Evaluation
from ftkit.metrics.selection import check_defined, is_better
from tests.evaluating import evaluate, metrics_named, task_named
from tests.models import REGISTRY


def decided(predictions: list[int], classes: int, margin: float = 10.0) -> Tensor:
    """Logits whose greatest is at each prediction."""
    return margin * torch.nn.functional.one_hot(torch.tensor(predictions), classes).float()


def sure(rows: list[list[float]], labels: list[int]) -> Evaluation:
    """The evaluation of outputs with these probabilities."""
    return evaluate(
        torch.tensor(rows, dtype=torch.float64).log(), torch.tensor(labels), tuple("abcdefgh"[: len(rows[0])])
    )


def test_small_case_by_hand() -> None:
    #            cat taken for cat, cat, dog; dog taken for dog; no owl, one dog taken for owl
    evaluation = evaluate(decided([0, 0, 1, 1, 2], 3), torch.tensor([0, 0, 0, 1, 1]), ("cat", "dog", "owl"))
    assert evaluation.confusion == ((2, 1, 0), (0, 1, 1), (0, 0, 0))
    assert evaluation.values["accuracy"] == 3 / 5
    assert evaluation.per_class == (
        ClassScores("cat", precision=1.0, recall=2 / 3, f1=0.8, support=3),
        ClassScores("dog", precision=0.5, recall=0.5, f1=0.5, support=2),
        ClassScores("owl", precision=0.0, recall=0.0, f1=0.0, support=0),
    )
    assert evaluation.values["macro_f1"] == pytest.approx(0.65), "owl has no image, so it doesn't count"
    assert evaluation.images == 5


def test_loss_is_the_mean_cross_entropy() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    assert evaluate(logits, torch.tensor([0, 1]), ("a", "b")).values["loss"] == pytest.approx(
        (math.log(2) + math.log(4)) / 2
    )


def test_rates_are_exact_in_double_precision() -> None:
    labels = torch.zeros(2000, dtype=torch.long)
    evaluation = evaluate(decided([0] * 1627 + [1] * 373, 2), labels, ("a", "b"))
    assert evaluation.values["accuracy"] == 0.8135
    assert evaluation.to_json()["accuracy"] == 0.8135


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels, predictions = generator.integers(0, 6, 200), generator.integers(0, 7, 200)
    names = tuple("abcdefg")
    evaluation = evaluate(decided(predictions.tolist(), 7), torch.tensor(labels), names)
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
    assert evaluation.values["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predictions))
    assert evaluation.values["macro_f1"] == pytest.approx(
        metrics.f1_score(labels, predictions, labels=sorted(set(labels)), average="macro")
    )


def test_one_image_is_enough() -> None:
    evaluation = evaluate(decided([1], 2), torch.tensor([1]), ("a", "b"))
    assert (evaluation.values["accuracy"], evaluation.values["macro_f1"], evaluation.images) == (1.0, 1.0, 1)


def test_a_loss_that_is_no_number_is_null_in_json() -> None:
    evaluation = evaluate(torch.full((2, 2), math.nan), torch.tensor([0, 1]), ("a", "b"))
    assert evaluation.values["loss"] is None
    assert evaluation.missing["loss"] == "the model's outputs are not finite for 2 of 2 images"
    assert json.loads(json.dumps(evaluation.to_json(), allow_nan=False))["loss"] is None


def test_json_has_everything_by_class_name() -> None:
    evaluation = evaluate(decided([0, 1, 1], 2), torch.tensor([0, 1, 0]), ("ant", "bee"))
    assert json.loads(json.dumps(evaluation.to_json())) == {
        "images": 3,
        "loss": pytest.approx(evaluation.values["loss"]),
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
    evaluation = evaluate(decided([0, 0, 1, 1, 2], 3), torch.tensor([0, 0, 0, 1, 1]), ("cat", "dog", "owl"))
    assert evaluation.values["weighted_f1"] == pytest.approx((3 * 0.8 + 2 * 0.5) / 5)


def test_top5_counts_the_five_likeliest_of_six_classes() -> None:
    logits = torch.tensor([[6.0, 5, 4, 3, 2, 1], [6.0, 5, 4, 3, 2, 1], [1.0, 2, 3, 4, 5, 6]])
    evaluation = evaluate(logits, torch.tensor([4, 5, 1]), tuple("abcdef"))
    assert evaluation.values["top5"] == 2 / 3


def test_top5_is_no_metric_of_five_classes() -> None:
    evaluation = evaluate(decided([0, 1], 5), torch.tensor([0, 1]), tuple("abcde"))
    assert "top5" not in evaluation.values
    assert "top5" not in evaluation.to_json()


def test_auroc_by_hand() -> None:
    """Of the 2 x 2 pairs of one image of b and one of a, three are in the right order and one ties."""
    evaluation = sure([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.2, 0.8]], [0, 0, 1, 1])
    assert evaluation.values["auroc"] == pytest.approx(3.5 / 4)


def test_auroc_ranks_probabilities_that_tie_in_single_precision() -> None:
    logits = torch.tensor([[0.0, 30.0], [0.0, 31.0], [0.0, 32.0], [0.0, 33.0]])
    assert evaluate(logits, torch.tensor([0, 0, 1, 1]), ("a", "b")).values["auroc"] == pytest.approx(1.0)


def test_auroc_never_exceeds_one() -> None:
    for images in range(20, 200, 7):
        labels = torch.arange(images) % 7
        auroc = evaluate(decided(labels.tolist(), 7), labels, tuple("abcdefg")).values["auroc"]
        assert auroc is not None
        assert 1 - 1e-6 < auroc <= 1


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([0, 1, 1], "no image is of class 'owl'"),
        ([2, 2, 2], "all images are of class 'owl'"),
    ],
)
def test_auroc_without_positives_or_negatives_is_undefined_with_the_reason(labels: list[int], reason: str) -> None:
    evaluation = evaluate(decided(labels, 3), torch.tensor(labels), ("cat", "dog", "owl"))
    assert evaluation.values["auroc"] is None
    assert evaluation.to_json()["auroc"] is None
    assert evaluation.to_json()["missing"] == {"auroc": reason}


def test_calibration_error_by_hand() -> None:
    """Four predictions in two bins: confidence 0.9 and half right, confidence 0.7 and all right."""
    evaluation = sure([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.3, 0.7]], [0, 1, 1, 1])
    assert evaluation.values["calibration_error"] == pytest.approx(0.5 * 0.4 + 0.5 * 0.3)


def test_complete_certainty_shares_the_uppermost_bin() -> None:
    """Right at 0.95 and wrong at 1: one bin, half right, confidence 0.975. Two bins would make it 0.525."""
    logits = torch.tensor([[math.log(0.95), math.log(0.05)], [1000.0, 0.0]])
    evaluation = evaluate(logits, torch.tensor([0, 1]), ("a", "b"))
    assert evaluation.values["calibration_error"] == pytest.approx(0.475)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_probabilities_agree_with_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits, labels = generator.normal(size=(300, 7)), generator.permutation(np.arange(300) % 7)
    logits[np.arange(300), labels] += 1
    evaluation = evaluate(torch.tensor(logits), torch.tensor(labels), tuple("abcdefg"))
    values = evaluation.values
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert values["loss"] == pytest.approx(metrics.log_loss(labels, probabilities))
    assert values["top5"] == pytest.approx(metrics.top_k_accuracy_score(labels, probabilities, k=5))
    assert values["auroc"] == pytest.approx(metrics.roc_auc_score(labels, probabilities, multi_class="ovr"), abs=1e-6)
    assert values["weighted_f1"] == pytest.approx(metrics.f1_score(labels, logits.argmax(axis=1), average="weighted"))
    assert values["calibration_error"] == pytest.approx(plain_calibration_error(probabilities, labels), abs=1e-6)


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
    found = evaluate(logits, torch.tensor([0, 1, 2, 3]), tuple("abcdef")).to_json()
    assert (found["loss"], found["auroc"], found["calibration_error"]) == (None, None, None)


def test_two_thousand_images_take_milliseconds() -> None:
    logits, labels = torch.randn(2000, 10), torch.arange(2000) % 10
    names = tuple("abcdefghij")
    evaluate(logits, labels, names)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        evaluate(logits, labels, names)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.1


def test_an_infinite_loss_is_undefined_with_the_reason() -> None:
    evaluation = evaluate(torch.tensor([[-math.inf, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]), ("a", "b"))
    assert evaluation.values["loss"] is None
    assert evaluation.missing == {"loss": "the true class of 1 image has the probability 0"}


def test_the_default_metrics_are_built_in_and_have_a_label() -> None:
    evaluation = evaluate(decided([0, 1, 2, 3, 4, 5], 6), torch.arange(6), tuple("abcdef"))
    assert tuple(evaluation.values) == task_named("multiclass").metrics
    assert {name for task in REGISTRY.tasks for name in task_named(task).metrics} == set(REGISTRY.metrics.of("ftkit"))
    assert all(metric.label for metric in metrics_named(*REGISTRY.metrics).values())


def test_lower_is_better_of_loss_and_calibration_error_only() -> None:
    metrics = metrics_named(*REGISTRY.metrics)
    assert {n for n, metric in metrics.items() if metric.lower_is_better} == {"loss", "calibration_error"}


@pytest.mark.parametrize("lower", [False, True])
def test_the_better_value_is_the_lower_or_the_higher_one(lower: bool) -> None:
    assert is_better(0.2, 0.5, lower) is lower
    assert is_better(0.5, 0.2, lower) is not lower
    assert not is_better(0.5, 0.5, lower)
    assert is_better(0.5, None, lower)
    assert is_better(0.5, math.nan, lower), "or a first epoch that isn't a number would stay the best"
    assert not is_better(math.nan, 0.5, lower)


@pytest.mark.parametrize(
    ("metric", "labels", "message"),
    [
        ("top5", [0, 1, 2], "it needs 6 classes or more, and there are 3"),
        ("auroc", [0, 0, 1], "no image is of class 'owl'"),
        ("auroc", [1, 1, 1], "all images are of class 'dog'"),
    ],
)
def test_a_metric_that_the_data_lacks_cant_select_epochs(metric: str, labels: list[int], message: str) -> None:
    classes, support = ("cat", "dog", "owl"), [labels.count(label) for label in range(3)]
    with pytest.raises(RequestError) as caught:
        check_defined(
            metrics_named(metric), "multiclass", support, len(labels), classes, "--monitor", "validation images"
        )
    assert caught.value.message == f"--monitor: {metric} is undefined for the validation images: {message}"
    check_defined(
        metrics_named("macro_f1"), "multiclass", support, len(labels), classes, "--monitor", "validation images"
    )


def test_the_interval_of_a_perfect_accuracy_has_a_width() -> None:
    found = wilson(39, 39)
    assert (round(found.low or 0, 3), found.high) == (0.910, 1.0)
