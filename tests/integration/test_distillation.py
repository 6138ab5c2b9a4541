"""A teacher: its part of the loss, its classes and images, and what a run says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ftkit
from ftkit import resume
from ftkit.errors import RequestError, RunInterrupted
from tests.conftest import MakeFolder, RunFtkit
from tests.models import backbone, save_model
from tests.multilabel import planned as planned_multilabel
from tests.multilabel import write_digits
from tests.runs import card, plan, result, tensors
from tests.stopping import StopAt

SETTINGS: dict[str, Any] = {
    "backbone": "lenet",
    "strategy": "full",
    "epochs": 2,
    "precision": "fp32",
    "optimizer": {"name": "sgd", "lr": 0.05, "weight_decay": 0.0, "momentum": 0.0},
    "weight_averaging": False,
}
CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    layout = {"train": {"a": 8, "b": 8, "c": 8}, "val": {"a": 4, "b": 4, "c": 4}}
    return image_folder(tmp_path_factory.mktemp("data"), layout)


def planned(data: Path, output: Path, teacher: Path | str | None, **settings: Any) -> ftkit.Plan:
    chosen = {} if teacher is None else {"teacher": str(teacher)}
    return plan(data, output, name="run", **(SETTINGS | {"weights": "default"} | chosen | settings))


def lenet(classes: tuple[str, ...]) -> torch.nn.Module:
    """The same network for classes in any order."""
    torch.manual_seed(1)
    network = backbone("lenet").build(len(CLASSES))
    places = [CLASSES.index(name) for name in classes]
    with torch.no_grad():
        network.head.weight.copy_(network.head.weight[places])  # type: ignore[union-attr, operator, index]
        network.head.bias.copy_(network.head.bias[places])  # type: ignore[union-attr, operator, index]
    return network


def largest_change(run: Path) -> float:
    first, last = tensors(run, "first"), tensors(run, "last")
    return max(float((last[name] - first[name]).abs().max()) for name in first)


@pytest.mark.parametrize("classes", [CLASSES, ("c", "a", "b")])
def test_a_network_that_is_its_own_teacher_learns_nothing(classes: tuple[str, ...], data: Path, tmp_path: Path) -> None:
    """Of the labels alone it does. Classes are found by name."""
    start = save_model(tmp_path / "start", CLASSES, "lenet", lenet(CLASSES))
    teacher = save_model(tmp_path / "teacher", classes, "lenet", lenet(classes))
    settings: dict[str, Any] = {"weights": str(start), "keep_head": True}
    for weight, moves in ((1.0, False), (0.5, True)):
        made = planned(data, tmp_path / str(weight), teacher, distillation={"weight": weight}, **settings)
        change = largest_change(ftkit.train(made).run.path)
        assert (change > 1e-3) is moves, change
        assert moves or change < 1e-6


def test_a_teacher_sees_images_in_its_own_normalization(data: Path, tmp_path: Path) -> None:
    """One that computes the same function of images of twice the standard deviation has nothing to teach."""
    start = save_model(tmp_path / "start", CLASSES, "lenet", lenet(CLASSES))
    network, own = lenet(CLASSES), backbone("lenet").preprocessing
    with torch.no_grad():
        network.conv1.weight.mul_(2)  # type: ignore[union-attr, operator]
    doubled = replace(own, std=tuple(2 * value for value in own.std))
    teacher = save_model(tmp_path / "teacher", CLASSES, "lenet", network, doubled)
    settings: dict[str, Any] = {"weights": str(start), "keep_head": True, "distillation": {"weight": 1.0}}
    assert largest_change(ftkit.train(planned(data, tmp_path, teacher, **settings)).run.path) < 1e-5


def test_the_loss_is_weighted_as_asked(data: Path, tmp_path: Path) -> None:
    """The step of plain gradient descent is linear in the weight of the teacher's loss."""
    teacher = save_model(tmp_path / "teacher", CLASSES, "lenet", lenet(CLASSES))
    steps: dict[float, Mapping[str, Tensor]] = {}
    for weight in (0.25, 0.5, 1.0):
        settings = {"epochs": 1, "batch_size": 24, "distillation": {"weight": weight, "temperature": 3}}
        run = ftkit.train(planned(data, tmp_path / str(weight), teacher, **settings)).run.path
        first, last = tensors(run, "first"), tensors(run, "last")
        steps[weight] = {name: last[name] - first[name] for name in first}
    for name, half in steps[0.5].items():
        expected = (2 * steps[0.25][name] + steps[1.0][name]) / 3
        assert torch.allclose(half, expected, atol=1e-6), name
        assert not torch.allclose(half, steps[1.0][name], atol=1e-6) or not half.any(), name


@pytest.mark.parametrize("step", [3, 5])
def test_a_stopped_run_ends_with_the_same_bytes(step: int, data: Path, tmp_path: Path) -> None:
    """With a teacher of another network, size, number of channels and normalization, and mixed images."""
    teacher = save_model(tmp_path / "teacher", CLASSES, "lenet", lenet(CLASSES))
    settings: dict[str, Any] = {"backbone": "cifar_resnet20", "weights": "none", "strategy": "gradual"}
    settings["batch_transforms"] = ["mixup"]
    whole = ftkit.train(planned(data, tmp_path / "whole", teacher, **settings)).run.path
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, tmp_path / "cut", teacher, **settings), StopAt(step))
    resume(tmp_path / "cut" / "run")
    assert result(tmp_path / "cut" / "run") == result(whole)


def test_what_is_said_of_it(data: Path, tmp_path: Path, run_ftkit: RunFtkit) -> None:
    teacher = save_model(tmp_path / "teacher", CLASSES)
    flags = ("--data", str(data), "--backbone", "lenet", "--teacher", "teacher", "--set", "distillation.weight=0.7")
    said = " ".join(run_ftkit("plan", *flags, cwd=tmp_path).stdout.split())
    assert f"teacher cifar_resnet20 of {teacher}: weight 0.7, temperature 2; it sees the augmented images" in said
    assert "cache for the probe only (the teacher sees the images of each step)" in said
    done = run_ftkit("train", *flags, "--epochs", "1", "--workers", "0", "--name", "run", "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "run"
    facts = card(run / "model")["teacher"]
    digest = json.loads((teacher / "model.json").read_text())["weights_sha256"]
    assert facts == {"model": str(teacher), "backbone": "cifar_resnet20", "sha256": digest}
    assert json.loads((run / "inputs.json").read_text())["teacher"] == digest
    assert json.loads((run / "plan.json").read_text())["teacher"] == {**facts, "weight": 0.7, "temperature": 2.0}
    again = run_ftkit("train", "-c", str(run / "config.yaml"), "--name", "again", "-q", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert tensors(tmp_path / "runs" / "again").keys() == tensors(run).keys()


def test_another_teacher_is_refused_when_a_run_resumes(data: Path, tmp_path: Path) -> None:
    teacher = save_model(tmp_path / "teacher", CLASSES, "lenet", lenet(CLASSES))
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, tmp_path, teacher), StopAt(3))
    save_model(tmp_path / "teacher", CLASSES, "lenet")
    with pytest.raises(RequestError, match="teacher is another model than when it started"):
        resume(tmp_path / "run")


def test_several_labels_per_image(tmp_path: Path) -> None:
    data = write_digits(tmp_path)
    first = ftkit.train(planned_multilabel(data, tmp_path, "first", epochs=1))
    taught = ftkit.train(planned_multilabel(data, tmp_path, "taught", teacher=str(first.run.path), epochs=1))
    assert card(taught.run.path / "model")["teacher"]["backbone"] == "lenet"


@pytest.mark.parametrize(
    ("classes", "settings", "says"),
    [
        (("a", "b", "d"), {}, "is for other classes: it lacks 'c' and has 'd'"),
        (CLASSES, {"epochs": 0}, "teacher has no effect: the run trains no epochs"),
        (None, {"distillation": {"weight": 0.3}}, "has no effect without a teacher"),
        (CLASSES, {"distillation": {"weight": 1.5}}, "distillation.weight"),
        (CLASSES, {"distillation": {"temperature": 0}}, "distillation.temperature"),
    ],
)
def test_it_is_refused(
    classes: tuple[str, ...] | None, settings: dict[str, Any], says: str, data: Path, tmp_path: Path
) -> None:
    teacher = save_model(tmp_path / "teacher", classes, "lenet") if classes else None
    with pytest.raises(RequestError, match=says):
        planned(data, tmp_path, teacher, **settings)


def test_one_that_is_missing_or_of_another_task_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^teacher: .*nowhere"):
        planned(data, tmp_path, "nowhere")
    other = save_model(tmp_path / "teacher", CLASSES, "lenet", task={"name": "multilabel"})
    with pytest.raises(RequestError, match="is multilabel, and that of the run multiclass"):
        planned(data, tmp_path, other)
