"""The means of training each do what they say to the weights, the loss and the order of the images."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import ftkit
from ftkit import Listener
from ftkit.builtin.losses.softmax_losses import CrossEntropy
from ftkit.errors import RequestError
from ftkit.tasks.training_loss import BatchLoss, make_loss
from ftkit.training.preparation.open_run import open_run
from ftkit.training.session import Session, open_session
from ftkit.training.stop_signals import StopFlag
from tests.conftest import MakeFolder, RunFtkit

SMALL: dict[str, Any] = {
    "backbone": "cifar_resnet20",
    "weights": "none",
    "strategy": "scratch",
    "batch_size": 6,
    "workers": 0,
    "epochs": 2,
    "augment": "none",
    "optimizer": {"name": "sgd", "lr": 0.1},
    "lr_curve": "constant",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    layout = {"train": {"a": 12, "b": 3}, "val": {"a": 3, "b": 3}}
    return image_folder(tmp_path_factory.mktemp("data"), layout)


def plan(data: Path, output: Path, **settings: Any) -> ftkit.Plan:
    return ftkit.plan(dataset={"name": "folder", "root": str(data)}, output=str(output), **(SMALL | settings))


def opened(made: ftkit.Plan) -> Session:
    return open_session(made, open_run(made), Listener(), StopFlag())


def first_weights(made: ftkit.Plan) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in opened(made).network.named_parameters()}


def last_weights(made: ftkit.Plan) -> dict[str, Tensor]:
    trained = load_file(ftkit.train(made).run.last / "model.safetensors")
    return {name: trained[name] for name, _ in opened(made).network.named_parameters()}


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float((one[k] - other[k]).square().sum()) for k in one))


# Gradients


def test_a_tiny_clip_leaves_the_weights_where_they_are(data: Path, tmp_path: Path) -> None:
    before = first_weights(plan(data, tmp_path))
    assert distance(before, last_weights(plan(data, tmp_path, clip_grad=1e-9))) < 1e-8
    assert distance(before, last_weights(plan(data, tmp_path))) > 0.1


@pytest.mark.parametrize("cut", [{"batch_size": 15}, {"batch_size": 4, "accumulate": 4}])
def test_a_clipped_step_is_as_long_as_clip_times_rate(cut: dict[str, int], data: Path, tmp_path: Path) -> None:
    """One step of SGD moves the weights by rate times gradient; lenet's gradient here is longer than 0.01."""
    common: dict[str, Any] = {"backbone": "lenet", "epochs": 1, "clip_grad": 0.01, **cut}
    made = plan(data, tmp_path, **common)
    assert made.steps == 1
    assert distance(first_weights(made), last_weights(made)) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_a_clip_above_the_gradient_changes_nothing(data: Path, tmp_path: Path) -> None:
    free, loose = (last_weights(plan(data, tmp_path, clip_grad=norm)) for norm in (None, 1e6))
    assert all(torch.equal(free[k], loose[k]) for k in free)


# Weight decay


def test_weight_decay_alone_shrinks_weights_and_spares_the_rest(data: Path, tmp_path: Path) -> None:
    """AdamW's decay doesn't come through the gradient, so with one clipped to nothing only decay moves."""
    quiet: dict[str, Any] = {"epochs": 1, "batch_size": 15, "clip_grad": 1e-30}
    decay = {"name": "adamw", "lr": 0.1, "weight_decay": 0.5}
    before = first_weights(plan(data, tmp_path))
    spared = last_weights(plan(data, tmp_path, optimizer=decay, **quiet))
    shrunk = last_weights(plan(data, tmp_path, optimizer=decay, decay_all=True, **quiet))
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


def test_a_base_rate_that_nothing_uses_is_said(data: Path, tmp_path: Path) -> None:
    notes = plan(data, tmp_path, strategy="freeze", group_lr={"head": 0.1}).notes
    assert "every group that trains has its rate from group_lr: optimizer.lr has no effect" in notes


def test_the_command_line_takes_and_shows_the_means(run_ftkit: RunFtkit, data: Path) -> None:
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


def test_class_weights_and_smoothing_by_hand() -> None:
    """Logits 0 and ln 3 are the probabilities 1/4 and 3/4."""
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    labels = torch.tensor([0, 1])
    hit, miss, loss = -math.log(0.75), -math.log(0.25), CrossEntropy()
    assert float(BatchLoss(loss)(logits, labels)) == pytest.approx(miss + hit)
    weights = torch.tensor([0.5, 3.0])
    assert float(BatchLoss(loss, weights=weights)(logits, labels)) == pytest.approx(0.5 * miss + 3 * hit)
    smooth_miss, smooth_hit = 0.9 * miss + 0.1 * hit, 0.9 * hit + 0.1 * miss
    both = BatchLoss(loss, smoothing=0.2, weights=weights, auxiliary=0.4)
    assert float(BatchLoss(loss, smoothing=0.2)(logits, labels)) == pytest.approx(smooth_miss + smooth_hit)
    assert float(both(logits, labels)) == pytest.approx(0.5 * smooth_miss + 3 * smooth_hit)
    assert float(both(logits, labels, [logits])) == pytest.approx(1.4 * (0.5 * smooth_miss + 3 * smooth_hit))
    assert float(both(logits[:0], labels[:0])) == 0.0


def test_the_plans_weights_reach_the_loss(data: Path, tmp_path: Path) -> None:
    loss = make_loss(plan(data, tmp_path, balance="weights", label_smoothing=0.25), torch.device("cpu"))
    assert loss.weights is not None
    assert (loss.weights.tolist(), loss.smoothing) == ([0.625, 2.5], 0.25)
    assert make_loss(plan(data, tmp_path, balance="sampler"), torch.device("cpu")).weights is None


@pytest.mark.parametrize(
    ("settings", "moves"), [({}, 0.03), ({"balance": "weights"}, 0.0), ({"label_smoothing": 0.4}, 0.018)]
)
def test_the_head_moves_by_the_gradient_of_that_loss(
    settings: dict[str, Any], moves: float, data: Path, tmp_path: Path
) -> None:
    """A head of zeros says 1/2 to all 15 images, so that the gradient of its first bias is (3 - 12) / 15 / 2:
    0 where classes count the same, and smaller by 0.4 where the targets are."""
    state = {k: v.contiguous() for k, v in opened(plan(data, tmp_path)).network.state_dict().items()}
    head = [name for name, value in state.items() if value.shape[:1] == (2,)]
    save_file({k: torch.zeros_like(v) if k in head else v for k, v in state.items()}, tmp_path / "zero.safetensors")
    step: dict[str, Any] = {"strategy": "freeze", "epochs": 1, "batch_size": 15, "keep_head": True, "probe": False}
    step["precision"] = "fp32"
    made = plan(data, tmp_path, weights=str(tmp_path / "zero.safetensors"), **step, **settings)
    trained = load_file(ftkit.train(made).run.last / "model.safetensors")
    bias = next(trained[name] for name in head if name.endswith("bias"))
    assert bias.tolist() == pytest.approx([moves, -moves], abs=1e-6)


def test_records_hold_the_plain_loss_whatever_is_smoothed_or_weighted(data: Path, tmp_path: Path) -> None:
    still = {"optimizer": {"name": "sgd", "lr": 1e-12}, "epochs": 1}
    plain = ftkit.train(plan(data, tmp_path, **still)).records[0]
    other = ftkit.train(plan(data, tmp_path, label_smoothing=0.5, balance="weights", **still)).records[0]
    assert other["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-6)
    assert other["train_accuracy"] == plain["train_accuracy"]


# Order


def test_the_sampler_draws_classes_equally_and_an_epoch_keeps_its_length(data: Path, tmp_path: Path) -> None:
    session = opened(plan(data, tmp_path, balance="sampler"))
    train = session.plan.splits.train
    assert train is not None
    seen: Counter[int] = Counter()
    for epoch in range(60):
        session.order.start(epoch)
        indices = [index for batch in session.order for _, index, _ in batch]
        assert len(indices) == 15
        seen.update(int(train.labels[i]) for i in indices)  # type: ignore[arg-type]
    # 900 draws: half of them, give or take three standard deviations.
    assert 405 < seen[1] < 495


def test_the_loader_gives_the_images_that_were_drawn(data: Path, tmp_path: Path) -> None:
    session = opened(plan(data, tmp_path, balance="sampler"))
    session.order.start(0)
    drawn = [index for batch in session.order for _, index, _ in batch]
    given = [
        (int(i), int(label)) for batch in session.uncached.train_loader for _, label, i in zip(*batch, strict=True)
    ]
    assert [index for index, _ in given] == drawn
    assert sum(label for _, label in given) > 3
