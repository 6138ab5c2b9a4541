"""The means of training each do what they say to the weights, the loss and the order of the images."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import ftkit
from ftkit.errors import RequestError
from tests import runs
from tests.conftest import MakeFolder, RunFtkit

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    layout = {"train": {"a": 12, "b": 3}, "val": {"a": 3, "b": 3}}
    return image_folder(tmp_path_factory.mktemp("data"), layout)


plan = runs.planner(
    strategy="scratch",
    augment="none",
    optimizer={"name": "sgd", "lr": 0.1},
    lr_curve="constant",
)


def trained(made: ftkit.Plan) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters before and after the training, without BatchNorm's statistics."""
    run = ftkit.train(made).run.path
    first, last = (
        {name: value for name, value in runs.tensors(run, model).items() if not name.endswith(STATISTICS)}
        for model in ("first", "last")
    )
    return first, last


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float((one[k] - other[k]).square().sum()) for k in one))


# Gradients


def test_a_tiny_clip_leaves_the_weights_where_they_are(data: Path, tmp_path: Path) -> None:
    assert distance(*trained(plan(data, tmp_path, clip_grad=1e-9))) < 1e-8
    assert distance(*trained(plan(data, tmp_path))) > 0.1


@pytest.mark.parametrize("cut", [{"batch_size": 15}, {"batch_size": 4, "accumulate": 4}])
def test_a_clipped_step_is_as_long_as_clip_times_rate(cut: dict[str, int], data: Path, tmp_path: Path) -> None:
    """One step of SGD moves the weights by rate times gradient; lenet's gradient here is longer than 0.01."""
    common: dict[str, Any] = {"backbone": "lenet", "epochs": 1, "clip_grad": 0.01, **cut}
    made = plan(data, tmp_path, **common)
    assert made.steps == 1
    assert distance(*trained(made)) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_a_clip_above_the_gradient_changes_nothing(data: Path, tmp_path: Path) -> None:
    free, loose = (trained(plan(data, tmp_path, clip_grad=norm))[1] for norm in (None, 1e6))
    assert all(torch.equal(free[k], loose[k]) for k in free)


# Weight decay


def test_weight_decay_alone_shrinks_weights_and_spares_the_rest(data: Path, tmp_path: Path) -> None:
    """AdamW's decay doesn't come through the gradient, so with one clipped to nothing only decay moves."""
    quiet: dict[str, Any] = {"epochs": 1, "batch_size": 15, "clip_grad": 1e-30}
    decay = {"name": "adamw", "lr": 0.1, "weight_decay": 0.5}
    before, spared = trained(plan(data, tmp_path, optimizer=decay, **quiet))
    _, shrunk = trained(plan(data, tmp_path, optimizer=decay, decay_all=True, **quiet))
    for name, old in before.items():
        is_weight = old.dim() > 1
        assert torch.allclose(spared[name], old * (0.95 if is_weight else 1.0), rtol=1e-5), name
        assert torch.allclose(shrunk[name], old * 0.95, rtol=1e-5), name


# Rates


def test_group_rates_take_the_place_of_scaled_ones_and_follow_the_curve(data: Path, tmp_path: Path) -> None:
    rates = {"layer3": 1e-3, "head": 0.5}
    strategy = {"name": "gradual", "every": 1, "decay": 0.1}
    made = plan(data, tmp_path, strategy=strategy, group_lr=rates, epochs=3, lr_curve="linear", batch_size=15)
    rows = [made.learning_rates(step) for step in range(3)]
    assert rows[0] == pytest.approx({"head": 0.5})
    assert rows[1] == pytest.approx({"layer3": 1e-3 * 2 / 3, "head": 0.5 * 2 / 3})
    assert rows[2] == pytest.approx({"layer2": 0.1 * 0.01 / 3, "layer3": 1e-3 / 3, "head": 0.5 / 3})
    assert [record["lr"] for record in ftkit.train(made).records] == rows
    assert [epoch["lr"] for epoch in made.to_json()["epochs"]] == rows


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"group_lr": {"laier3": 0.1}}, "group_lr.laier3: unknown layer group 'laier3' (did you mean 'layer3'?)"),
        (
            {"group_lr": {"layer1": 0.1}, "strategy": "freeze"},
            "group_lr.layer1: layer1 never trains under strategy 'freeze' in 2 epochs",
        ),
        ({"augment": {"name": "strong", "hue": 0.1}, "backbone": "lenet"}, "augment.hue has no effect on grey images"),
        ({"decay_all": True}, "decay_all: optimizer sgd has no weight decay by default"),
    ],
)
def test_what_would_have_no_effect_is_refused(settings: dict[str, Any], says: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        plan(data, tmp_path, **settings)
    assert says in str(caught.value)


def test_a_base_rate_that_nothing_uses_is_noted(data: Path, tmp_path: Path) -> None:
    notes = plan(data, tmp_path, strategy="freeze", group_lr={"head": 0.1}).notes
    assert "every group that trains has its rate from group_lr: optimizer.lr has no effect" in notes


def test_the_command_line_takes_and_shows_the_settings(run_ftkit: RunFtkit, data: Path) -> None:
    arguments = ["--data", str(data), "--backbone", "cifar_resnet20", "--weights", "none", "--strategy", "full"]
    means = ["--set", "group_lr.layer3=1e-4", "--augment", "standard", "--set", "augment.scale=[0.5, 1]"]
    means += ["--balance", "weights", "--label-smoothing", "0.1", "--clip-grad", "2"]
    done = run_ftkit("plan", *arguments, *means)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "augment standard: scale 0.5 to 1, ratio 0.75 to 1.33, flip 0.5" in lines
    assert "weight decay 0.01 on all but biases and normalisation parameters" in lines
    assert "gradient norm clipped to 2" in lines
    assert "loss cross-entropy, label smoothing 0.1; class weights 0.625 to 2.5" in lines
    assert any(line.startswith("layer3 ") and line.endswith(" 0.0001") for line in lines)
    shown = json.loads(run_ftkit("plan", *arguments, *means, "--json").stdout)
    assert shown["augment"]["scale"] == [0.5, 1.0]
    assert shown["class_weights"] == [0.625, 2.5]


# Loss


@pytest.mark.parametrize(
    ("settings", "moves"), [({}, 0.03), ({"balance": "weights"}, 0.0), ({"label_smoothing": 0.4}, 0.018)]
)
def test_the_head_moves_by_the_gradient_of_that_loss(
    settings: dict[str, Any], moves: float, data: Path, tmp_path: Path
) -> None:
    """A head of zeros says 1/2 to all 15 images, so that the gradient of its first bias is (3 - 12) / 15 / 2:
    0 where classes count the same, and smaller by 0.4 where the targets are."""
    state = runs.tensors(ftkit.train(plan(data, tmp_path, epochs=1)).run.path)
    head = [name for name, value in state.items() if value.shape[:1] == (2,)]
    save_file({k: torch.zeros_like(v) if k in head else v for k, v in state.items()}, tmp_path / "zero.safetensors")
    step: dict[str, Any] = {"strategy": "freeze", "epochs": 1, "batch_size": 15, "keep_head": True, "probe": False}
    step["precision"] = "fp32"
    made = plan(data, tmp_path, weights=str(tmp_path / "zero.safetensors"), **step, **settings)
    after = runs.tensors(ftkit.train(made).run.path)
    bias = next(after[name] for name in head if name.endswith("bias"))
    assert bias.tolist() == pytest.approx([moves, -moves], abs=1e-6)


def test_records_hold_the_plain_loss_whatever_is_smoothed_or_weighted(data: Path, tmp_path: Path) -> None:
    still = {"optimizer": {"name": "sgd", "lr": 1e-12}, "epochs": 1}
    plain = ftkit.train(plan(data, tmp_path, **still)).records[0]
    other = ftkit.train(plan(data, tmp_path, label_smoothing=0.5, balance="weights", **still)).records[0]
    assert other["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-6)
    assert other["train_accuracy"] == plain["train_accuracy"]


# Order
