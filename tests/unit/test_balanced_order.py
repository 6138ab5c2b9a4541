"""The plan's class weights and balanced sampling, as training gets them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import ftkit
from ftkit import Listener
from ftkit.tasks.training_loss import make_loss
from ftkit.training.preparation.open_run import open_run
from ftkit.training.session import Session, open_session
from ftkit.training.stop_signals import StopFlag
from tests.conftest import MakeFolder

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


def test_the_plans_weights_reach_the_loss(data: Path, tmp_path: Path) -> None:
    loss = make_loss(plan(data, tmp_path, balance="weights", label_smoothing=0.25), torch.device("cpu"))
    assert loss.weights is not None
    assert (loss.weights.tolist(), loss.smoothing) == ([0.625, 2.5], 0.25)
    assert make_loss(plan(data, tmp_path, balance="sampler"), torch.device("cpu")).weights is None


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
