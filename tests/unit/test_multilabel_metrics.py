"""Metrics of images with several labels, against scikit-learn's and torchmetrics'."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics
from torchmetrics.functional import classification

from ftkit.api import MultilabelOutputs
from ftkit.metrics.bootstrap import interval, resampled
from ftkit.metrics.report import evaluate_outputs
from tests.evaluating import evaluate, metrics_named, task_named

CLASSES = tuple("abcdef")


def drawn(seed: int, images: int = 200, ties: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are higher for true labels, and targets with about two labels per image."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.rand(images, len(CLASSES), generator=generator) < 0.35
    logits = torch.randn(images, len(CLASSES), generator=generator) + 1.5 * targets - 0.8
    return (logits.round() if ties else logits), targets


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True])
def test_values_agree_with_scikit_learn(seed: int, ties: bool) -> None:
    logits, targets = drawn(seed, ties=ties)
    truth, scores, predicted = targets.numpy(), logits.double().sigmoid().numpy(), (logits > 0).numpy()
    values = evaluate(logits, targets, CLASSES).values
    assert tuple(values) == task_named("multilabel").metrics
    assert values["map"] == pytest.approx(metrics.average_precision_score(truth, scores, average="macro"))
    assert values["auroc"] == pytest.approx(metrics.roc_auc_score(truth, scores, average="macro"))
    assert values["micro_f1"] == pytest.approx(metrics.f1_score(truth, predicted, average="micro"))
    assert values["macro_f1"] == pytest.approx(metrics.f1_score(truth, predicted, average="macro"))
    assert values["subset_accuracy"] == metrics.accuracy_score(truth, predicted)
    losses = [metrics.log_loss(truth[:, one], scores[:, one]) for one in range(len(CLASSES))]
    assert values["loss"] == pytest.approx(np.mean(losses))
    weighted = evaluate_outputs(MultilabelOutputs(logits, targets, CLASSES), metrics_named("weighted_f1")).values
    assert weighted["weighted_f1"] == pytest.approx(metrics.f1_score(truth, predicted, average="weighted"))


@pytest.mark.parametrize("seed", range(3))
def test_values_agree_with_torchmetrics(seed: int) -> None:
    logits, targets = drawn(seed)
    scores, labels, count = logits.double().sigmoid(), targets.long(), len(CLASSES)
    found = evaluate(logits, targets, CLASSES)
    theirs = {
        "map": classification.multilabel_average_precision(scores, labels, count),
        "auroc": classification.multilabel_auroc(scores, labels, count),
        "micro_f1": classification.multilabel_f1_score(scores, labels, count, average="micro"),
        "macro_f1": classification.multilabel_f1_score(scores, labels, count, average="macro"),
        "subset_accuracy": classification.multilabel_exact_match(scores, labels, count),
    }
    for name, value in theirs.items():
        assert found.values[name] == pytest.approx(float(value), abs=1e-6), name
    by_class = classification.multilabel_average_precision(scores, labels, count, average=None)
    assert found.average_precision == pytest.approx(by_class.numpy(), abs=1e-6)


def test_json_has_the_average_precision_of_each_class_and_no_confusion_matrix() -> None:
    targets = torch.tensor([[1, 0, 0], [1, 1, 0]]).bool()
    found = evaluate(torch.tensor([[2.0, 1, -1], [1.0, 2, -1]]), targets, ("cat", "dog", "owl"))
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["classes"][1] == {
        "name": "dog", "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1,
        "average_precision": 1, "threshold": 0.5,
    }  # fmt: skip
    assert written["classes"][2]["average_precision"] is None, "no image has the label"
    assert written["map"] == 1, "of the classes that have an image"
    assert written["missing"] == {"auroc": "all images are of class 'cat'"}
    assert "confusion" not in written


def test_an_image_whose_outputs_are_not_finite_has_no_prediction_and_is_wrong() -> None:
    logits, targets = drawn(0)
    logits[3, 2], targets[3] = math.nan, False
    found = evaluate(logits, targets, CLASSES)
    assert {found.values[name] for name in ("map", "auroc", "loss")} == {None}
    assert found.missing["map"] == "the model's outputs are not finite for 1 of 200 images"
    right = (logits > 0) == targets
    right[3] = False
    assert found.values["subset_accuracy"] == pytest.approx(float(right.all(dim=1).double().mean()))


def test_targets_without_a_label_have_no_map() -> None:
    found = evaluate(torch.randn(3, 2), torch.zeros(3, 2).bool(), ("a", "b"))
    assert found.values["map"] is None
    assert found.missing["map"] == "no image has a label"


@pytest.mark.parametrize("name", [*task_named("multilabel").metrics, "weighted_f1"])
def test_each_resample_has_the_value_of_its_images(name: str) -> None:
    logits, targets = drawn(1, 60, ties=True)
    metric, outputs = metrics_named(name)[name], MultilabelOutputs(logits, targets, CLASSES)
    generator = np.random.default_rng(0)
    indices = generator.integers(60, size=(20, 60))
    counts = np.stack([np.bincount(row, minlength=60) for row in indices]).astype(float)
    expected = [metric.value(MultilabelOutputs(logits[row], targets[row], CLASSES)) for row in indices]
    assert metric.resampler(outputs)(counts) == pytest.approx(expected)
    assert [metric.value(outputs.take(row)) for row in indices] == pytest.approx(expected)


def test_intervals_lie_around_the_value() -> None:
    logits, targets = drawn(2)
    outputs, chosen = MultilabelOutputs(logits, targets, CLASSES), metrics_named(*task_named("multilabel").metrics)
    values = evaluate_outputs(outputs, chosen).values
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draws = resampled(outputs, chosen, resamples=300)
    for name, value in values.items():
        found = interval(draws[name])
        assert value is not None
        assert found.low is not None
        assert found.high is not None
        assert found.low < value < found.high, name


def test_resamples_without_a_label_dont_count_and_warn_of_nothing() -> None:
    logits, targets = drawn(3, images=12)
    targets[2:] = False
    targets[:2, 0] = True
    chosen = metrics_named(*task_named("multilabel").metrics, "weighted_f1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draws = resampled(MultilabelOutputs(logits, targets, CLASSES), chosen, resamples=300)
    assert np.isnan(draws["macro_f1"]).any()
    assert np.array_equal(np.isnan(draws["macro_f1"]), np.isnan(draws["weighted_f1"]))
