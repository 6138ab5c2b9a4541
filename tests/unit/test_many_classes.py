"""Twenty thousand classes: metrics, tables and class settings cost what the images cost, not the classes squared."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn import metrics
from torchmetrics.functional import classification

from ftkit.api import MulticlassOutputs, Split, Splits
from ftkit.cli.output import console
from ftkit.cli.output.evaluating.evaluation_tables import print_evaluation
from ftkit.data.class_selection import select_classes
from ftkit.evaluation.evaluation_data import EvaluationData
from ftkit.metrics.bootstrap import interval, resampled
from ftkit.metrics.selection import default_metrics
from ftkit.tasks.head_fit import LONE_STRENGTH, choose_strength
from tests.evaluating import evaluate, metrics_named, task_named
from tests.models import REGISTRY

REPOSITORY = Path(__file__).parents[2]
MANY = 20_000
NAMES = tuple(f"class-{number:05d}" for number in range(MANY))

PEAK = f"""
import json, resource, time, torch
from tests.evaluating import evaluate

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (10 if {sys.platform == "darwin"} else 0) / 1024

logits, labels = torch.randn(1000, {MANY}), torch.arange(1000) * 7 % {MANY}
names = tuple(map(str, range({MANY})))
evaluate(logits[:2, :10], labels[:2] % 10, names[:10])
before, started = peak(), time.process_time()
found = evaluate(logits, labels, names)
print(json.dumps([peak() - before, time.process_time() - started, found.images]))
"""


def test_an_epoch_is_scored_in_little_time_and_memory() -> None:
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    megabytes, seconds, images = json.loads(done.stdout)
    assert images == 1000
    assert megabytes < 100, "beside the 80 MB of the outputs themselves; the matrix alone would be 3,200"
    assert seconds < 5


def test_values_agree_with_scikit_learn_and_torchmetrics() -> None:
    """Each class has one image or several, so that either way of ranking is taken."""
    generator = np.random.default_rng(0)
    classes, images = 300, 1500
    labels = np.concatenate([np.arange(classes), generator.integers(0, 20, images - classes)])
    logits = generator.normal(size=(images, classes)).round(1)
    logits[np.arange(images), labels] += 2
    found = evaluate(torch.tensor(logits), torch.tensor(labels), NAMES[:classes])
    predicted = logits.argmax(axis=1)
    assert found.values["accuracy"] == metrics.accuracy_score(labels, predicted)
    assert found.values["macro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert found.values["weighted_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="weighted"))
    assert found.confusion == tuple(map(tuple, metrics.confusion_matrix(labels, predicted).tolist()))
    areas = [metrics.roc_auc_score(labels == one, torch.tensor(logits).softmax(1)[:, one]) for one in range(classes)]
    assert found.values["auroc"] == pytest.approx(np.mean(areas), abs=1e-12)
    probabilities = torch.tensor(logits).softmax(1)
    theirs = classification.multiclass_calibration_error(probabilities, torch.tensor(labels), classes, 15, "l1")
    assert found.values["calibration_error"] == pytest.approx(float(theirs), abs=1e-6)


def few_of_many() -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.tensor([5, 5, 19_999, 7])
    logits = torch.zeros(4, MANY)
    logits[torch.arange(4), torch.tensor([5, 9, 19_999, 9])] = 9
    return logits, labels


def test_json_has_the_pairs_in_place_of_a_matrix_of_400_million() -> None:
    found = evaluate(*few_of_many(), NAMES).to_json()
    assert found["confusion"] is None
    assert found["confusion_pairs"] == [[5, 5, 1], [5, 9, 1], [7, 9, 1], [19_999, 19_999, 1]]
    assert found["classes"][5] == {
        "name": "class-00005", "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2,
    }  # fmt: skip


def test_the_terminal_shows_the_worst_classes_and_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(console, "out", lambda: Console(file=text, width=120))
    started = time.process_time()
    evaluation = evaluate(*few_of_many(), NAMES)
    split = Split(["a", "b", "c", "d"], [5, 5, 19_999, 7], open=lambda _: None)  # type: ignore[arg-type,return-value]
    print_evaluation(
        evaluation, EvaluationData("data", "test", split), {}, default_metrics(REGISTRY, task_named("multiclass"), MANY)
    )
    assert time.process_time() - started < 5
    lines = text.getvalue().splitlines()
    assert len(lines) < 30
    assert "3 of 20,000 classes with the lowest F1: all are in --json" in " ".join(text.getvalue().split())
    assert any("class-00007" in line and "class-00009" in line for line in lines), "7 was taken for 9"


def test_resamples_of_many_classes_take_no_table_of_them() -> None:
    logits, labels = few_of_many()
    started = time.process_time()
    metrics = metrics_named("accuracy", "macro_f1", "weighted_f1", "loss", "auroc")
    draws = resampled(MulticlassOutputs(logits, labels, NAMES), metrics)
    assert time.process_time() - started < 5
    assert (interval(draws["accuracy"]).low, interval(draws["accuracy"]).high) == (0.0, 1.0)
    assert interval(draws["auroc"]).low is None, "no resample has an image of every class"


def test_selecting_among_many_classes_takes_linear_time() -> None:
    split = Split([str(n) for n in range(MANY)], list(range(MANY)), open=lambda _: None)  # type: ignore[arg-type,return-value]
    targets = {name: name.replace("class", "kind") for name in NAMES}
    started = time.process_time()
    chosen = select_classes(Splits(NAMES, split), NAMES[::-1], targets)
    assert time.process_time() - started < 3
    assert chosen.train is not None
    assert chosen.classes[0] == "kind-00000", "in the order of the map"
    assert list(chosen.train.labels[:2]) == [0, 1]


def test_a_strength_is_taken_where_classes_are_too_many_to_compare_on() -> None:
    labels = np.repeat(np.arange(2500), 2)
    assert choose_strength(np.zeros((5000, 2)), labels, True, False, 0) == LONE_STRENGTH
