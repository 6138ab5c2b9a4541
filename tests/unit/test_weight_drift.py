"""How far weights are from the first ones of the run: exactly nothing where frozen, and the same after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import ftkit
from ftkit import resume
from ftkit.errors import RunInterrupted
from ftkit.models.weights.drift import group_drift, layer_drift
from tests.conftest import MakeFolder
from tests.stopping import StopAt

SMALL: dict[str, Any] = {"backbone": "cifar_resnet20", "weights": "none", "batch_size": 6, "workers": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    layout = {"train": {"a": 9, "b": 9}, "val": {"a": 4, "b": 4}}
    return image_folder(tmp_path_factory.mktemp("data"), layout)


def plan(data: Path, output: Path, **settings: Any) -> ftkit.Plan:
    dataset = {"name": "folder", "root": str(data)}
    return ftkit.plan(dataset=dataset, output=str(output), name="run", **(SMALL | settings))


@pytest.fixture
def network() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1))
    for parameter, values in zip(model.parameters(), ([[3.0, 4.0]], [0.0], [[2.0]], [0.0]), strict=True):
        parameter.data = torch.tensor(values)
    return model


def test_distance_is_a_part_of_the_first_norm(network: nn.Module, tmp_path: Path) -> None:
    save_file({k: v.clone() for k, v in network.named_parameters()}, tmp_path / "first.safetensors")
    moving = network.get_parameter("0.weight")
    moving.data += torch.tensor([[0.3, 0.4]])
    members = {"body": ["0.weight", "0.bias"], "head": ["1.weight", "1.bias"]}
    found = layer_drift(network, members, tmp_path / "first.safetensors")
    assert group_drift(found) == {"body": pytest.approx(0.1), "head": 0.0}
    assert [(x.name, x.group, x.parameters, x.first) for x in found] == [("0", "body", 3, 5.0), ("1", "head", 2, 2.0)]
    assert found[0].distance == pytest.approx(0.5)


def test_what_began_at_zero_has_no_relative_distance(network: nn.Module, tmp_path: Path) -> None:
    save_file({k: v.clone() for k, v in network.named_parameters()}, tmp_path / "first.safetensors")
    members = {"weights": ["0.weight", "1.weight"], "biases": ["0.bias", "1.bias"]}
    assert group_drift(layer_drift(network, members, tmp_path / "first.safetensors")) == {"weights": 0.0, "biases": 0.0}
    network.get_parameter("1.bias").data += 1
    assert group_drift(layer_drift(network, members, tmp_path / "first.safetensors")) == {
        "weights": 0.0,
        "biases": None,
    }


def test_a_step_of_known_length_is_reported(data: Path, tmp_path: Path) -> None:
    """By hand from the two bundles of a run that keeps the weights it is given until its only epoch."""
    start = ftkit.train(plan(data, tmp_path / "start", epochs=0))
    source = str(start.run.model / "model.safetensors")
    outcome = ftkit.train(plan(data, tmp_path / "more", epochs=1, weights=source, keep_head=True, strategy="full"))
    before, after = load_file(source), load_file(outcome.run.last / "model.safetensors")
    assert set(outcome.records[0]["weight_drift"].values()) == {0.0}
    name = "conv1.weight"
    layer = next(x for x in movement(outcome.run.path)["layers"] if x["layer"] == "conv1")
    expected = (after[name].double() - before[name].double()).norm() / before[name].double().norm()
    assert layer == {
        "layer": "conv1",
        "group": "stem",
        "parameters": 432,
        "weight_drift": pytest.approx(float(expected)),
    }


def movement(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "weight_drift.json").read_text())
    return found


def test_frozen_is_exactly_zero_and_thawed_is_not(data: Path, tmp_path: Path) -> None:
    strategy = {"name": "gradual", "every": 1}
    outcome = ftkit.train(plan(data, tmp_path, strategy=strategy, epochs=3))
    moved = [r["weight_drift"] for r in outcome.records]
    assert [[g for g, value in m.items() if value == 0.0] for m in moved] == [
        ["stem", "layer1", "layer2", "layer3"],
        ["stem", "layer1", "layer2"],
        ["stem", "layer1"],
    ]
    assert all(value > 0 for m in moved for value in m.values() if value != 0.0)
    last = movement(outcome.run.path)
    assert (last["epoch"], last["groups"]) == (3, moved[-1])
    still = {x["layer"] for x in last["layers"] if x["weight_drift"] == 0.0}
    assert "conv1" in still
    assert all(x["group"] in ("stem", "layer1") for x in last["layers"] if x["layer"] in still)


@pytest.mark.parametrize("step", [2, 5])
def test_a_resumed_run_measures_from_the_same_start(step: int, data: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 3, "strategy": "full"}
    whole = ftkit.train(plan(data, tmp_path / "whole", **settings))
    with pytest.raises(RunInterrupted):
        ftkit.train(plan(data, tmp_path / "cut", **settings), StopAt(step))
    again = resume(tmp_path / "cut" / "run")
    assert [r["weight_drift"] for r in again.records] == [r["weight_drift"] for r in whole.records]
    assert movement(again.run.path) == movement(whole.run.path)


def test_the_first_weights_outlive_the_run_so_that_it_can_be_extended(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunInterrupted):
        ftkit.train(plan(data, tmp_path, epochs=2, strategy="freeze"), StopAt(1))
    first = tmp_path / "run" / "first" / "model.safetensors"
    before = first.read_bytes()
    resume(tmp_path / "run")
    assert first.read_bytes() == before


def test_after_a_probe_the_solved_head_is_the_start(tmp_path: Path) -> None:
    outcome = ftkit.train(ftkit.plan(epochs=1, strategy="freeze", train_samples=100, workers=0, output=str(tmp_path)))
    assert [r["epoch"] for r in outcome.records] == [0, 1]
    assert set(outcome.records[0]["weight_drift"].values()) == {0.0}
    head = outcome.records[1]["weight_drift"]["head"]
    assert 0 < head < 0.5, "a head drawn at random would be further from the solved one"
