"""The probe is scikit-learn's optimum, the start of the training, and the floor of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

import ftkit
from ftkit import Listener
from ftkit.data.loading import loader
from ftkit.errors import RequestError
from ftkit.evaluation.collect import infer
from ftkit.models.bundle import load_bundle
from ftkit.models.compute.devices import Compute
from ftkit.tasks.head_fit import fit_multinomial
from ftkit.training.preparation.probe import NoProbeError, _Features, head_layer
from ftkit.transforms import pipeline
from tests.conftest import MakeFolder

DIGITS: dict[str, Any] = {"workers": 0, "epochs": 2, "train_samples": 100}


def clouds(count: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping clouds of points, each class around its own centre; features of very different sizes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = rng.normal(size=(classes, 12)) * 1.5
    points = (centres[labels] + rng.normal(size=(count, 12))) * np.logspace(-1, 2, 12) + 5
    return torch.from_numpy(points).float(), torch.from_numpy(labels)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_solution_is_that_of_scikit_learn_on_the_same_features(classes: int) -> None:
    x, y = clouds(210, classes)
    solution = fit_multinomial(x, y, classes)
    scaled = (x.double().numpy() - x.double().numpy().mean(0)) / x.double().numpy().std()
    theirs = LogisticRegression(C=solution.strength, max_iter=1000).fit(scaled, y.numpy())
    ours = (x.double() @ solution.weight.double().T + solution.bias.double()).softmax(1).numpy()
    assert np.abs(ours - theirs.predict_proba(scaled)).max() < 2e-3
    assert (ours.argmax(1) == theirs.predict(scaled)).mean() == 1.0


def test_a_class_with_one_image_can_be_solved() -> None:
    x, y = clouds(30, 3)
    keep = torch.cat([torch.where(y != 2)[0], torch.where(y == 2)[0][:1]])
    solution = fit_multinomial(x[keep], y[keep], 3)
    assert solution.strength == 0.01
    assert solution.weight.shape == (3, 12)


def test_balanced_classes_count_equally() -> None:
    x, y = clouds(400, 2)
    few = torch.cat([torch.where(y == 0)[0], torch.where(y == 1)[0][:8]])
    usual, balanced = (fit_multinomial(x[few], y[few], 2, balanced=b) for b in (False, True))
    rest = torch.where(y == 1)[0][8:]
    found = [((x[rest] @ s.weight.T + s.bias).argmax(1) == 1).float().mean() for s in (usual, balanced)]
    assert found[1] > found[0]


def test_a_run_starts_from_the_probe_and_never_ends_below_it(tmp_path: Path) -> None:
    outcome = ftkit.train(ftkit.plan(**DIGITS, output=str(tmp_path), strategy="full", optimizer={"lr": 1.0}))
    first = outcome.records[0]
    assert first["epoch"] == 0
    assert first["probe_strength"] > 0
    assert first["val_accuracy"] > 0.8
    assert outcome.records[-1]["val_accuracy"] < first["val_accuracy"], "a rate of 1 ruins the network"
    assert outcome.best["epoch"] == 0
    model = ftkit.load(outcome.run.model)
    assert model.card.metrics["val_accuracy"] == first["val_accuracy"]


def test_the_probe_of_a_run_is_scikit_learns_on_the_networks_features(tmp_path: Path) -> None:
    plan = ftkit.plan(**DIGITS, output=str(tmp_path), strategy="probe")
    outcome = ftkit.train(plan)
    network, splits = load_bundle(outcome.run.model).model, plan.splits
    features = {}
    for name, split in splits.present():
        batches = loader.evaluation_loader(loader.Samples(split, pipeline.evaluation(plan.preprocessing)), 64, 0)
        seen, labels, _ = infer(
            _Features(network, head_layer(network, "head")), batches, Compute(torch.device("cpu"), "fp32")
        )
        features[name] = (seen.double().numpy(), labels.numpy())
    (x, y), (xv, yv) = features["train"], features["val"]
    theirs = LogisticRegression(C=outcome.best["probe_strength"], max_iter=1000)
    theirs.fit((x - x.mean(0)) / x.std(), y)
    assert theirs.score((xv - x.mean(0)) / x.std(), yv) == outcome.best["val_accuracy"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"strategy": "probe", "weights": "none"}, "solves the head first, but weights are none"),
        ({"strategy": "probe-then-finetune", "probe": False}, "but --no-probe is given"),
        ({"probe": True, "head": {"hidden": 8}}, "the head has a hidden layer"),
        ({"probe": True, "weights": "none"}, "weights are none"),
    ],
)
def test_a_probe_that_was_asked_for_and_cant_be_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        ftkit.plan(**settings)


@pytest.mark.parametrize("settings", [{"probe": False}, {"weights": "none"}, {"head": {"hidden": 8}}])
def test_without_a_probe_there_is_no_epoch_0(settings: dict[str, Any], tmp_path: Path) -> None:
    plan = ftkit.plan(**(DIGITS | {"epochs": 1, "strategy": "freeze"} | settings), output=str(tmp_path))
    assert plan.probe is None
    assert [r["epoch"] for r in ftkit.train(plan).records] == [1]


def test_a_head_that_cant_be_solved_is_said_and_passed_over(image_folder: MakeFolder, tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data", {"train": {"a": 6, "b": 6}, "val": {"a": 2, "b": 2}})
    common: dict[str, Any] = {
        "dataset": {"name": "folder", "root": str(data)},
        "backbone": "squeezenet1_1",
        "preprocessing": {"size": 32},
        "workers": 0,
        "epochs": 1,
        "output": str(tmp_path),
    }
    first = ftkit.train(ftkit.plan(**common, weights="none", strategy="freeze"))
    notes: list[str] = []

    class Notes(Listener):
        def note(self, text: str) -> None:
            notes.append(text)

    again = {**common, "weights": str(first.run.path), "strategy": "freeze"}
    outcome = ftkit.train(ftkit.plan(**again), Notes())
    assert notes == ["no probe: the head, classifier.1, is not a linear layer"]
    assert [r["epoch"] for r in outcome.records] == [1]
    with pytest.raises(NoProbeError):
        ftkit.train(ftkit.plan(**again, probe=True))


def test_a_network_that_changes_its_heads_output_is_noticed() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.fc(x) * 2
            return out

    network = Scaled()
    with pytest.raises(NoProbeError, match="does more with its head's output"):
        _Features(network, network.fc)(torch.ones(3, 4))
