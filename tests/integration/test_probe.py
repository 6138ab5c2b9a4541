"""The probe is scikit-learn's optimum, the start of the training, and the floor of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import ftkit
from ftkit.errors import RequestError
from tests.conftest import MakeFolder
from tests.runs import Notes

DIGITS: dict[str, Any] = {"workers": 0, "epochs": 2, "train_samples": 100}


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
    model = ftkit.load(outcome.run.model, device="cpu", precision="fp32")
    taken: list[torch.Tensor] = []
    model.network.get_submodule("head").register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    features = {}
    for name, split in plan.splits.present():
        taken.clear()
        model.predict([split[index][0] for index in range(len(split))])
        features[name] = (torch.cat(taken).double().numpy(), np.array(split.labels))
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


def test_a_head_that_cant_be_solved_is_reported_and_skipped(image_folder: MakeFolder, tmp_path: Path) -> None:
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
    again = {**common, "weights": str(first.run.path), "strategy": "freeze"}
    outcome = ftkit.train(ftkit.plan(**again), listener := Notes())
    assert listener.notes == ["no probe: the head, classifier.1, is not a linear layer"]
    assert [r["epoch"] for r in outcome.records] == [1]
    with pytest.raises(RequestError, match=r"the head, classifier\.1, is not a linear layer"):
        ftkit.train(ftkit.plan(**again, probe=True))
