"""The contract checks of metrics, losses, optimizers, curves, transforms and exporters find each planted fault."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ftkit.api import (
    Array,
    BatchTransform,
    Callback,
    Curve,
    Exporter,
    ImageTransform,
    Loss,
    MeanMetric,
    Multilabel,
    Optimizer,
    Outputs,
    RequestError,
    Splits,
    Task,
    TrainedModel,
)
from ftkit.testing import (
    ContractError,
    check_batch_transform,
    check_callback,
    check_curve,
    check_exporter,
    check_image_transform,
    check_loss,
    check_metric,
    check_optimizer,
    check_task,
)
from tests.models import REGISTRY

CALLS = iter(range(10**9))


def fault(check: Callable[[], object]) -> str:
    with pytest.raises(ContractError) as caught:
        check()
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(REGISTRY.tasks))
def test_each_built_in_task_keeps_the_contract(name: str) -> None:
    check_task(REGISTRY.tasks.get(name)())


@pytest.mark.parametrize("name", sorted(REGISTRY.metrics))
def test_each_built_in_metric_keeps_the_contract(name: str) -> None:
    check_metric(REGISTRY.metrics.get(name)())


@pytest.mark.parametrize("name", sorted(REGISTRY.losses))
def test_each_built_in_loss_keeps_the_contract(name: str) -> None:
    check_loss(REGISTRY.losses.get(name)())


@pytest.mark.parametrize("name", sorted(REGISTRY.optimizers))
def test_each_built_in_optimizer_keeps_the_contract(name: str) -> None:
    check_optimizer(REGISTRY.optimizers.get(name)())


@pytest.mark.parametrize("name", sorted(REGISTRY.curves))
def test_each_built_in_curve_keeps_the_contract(name: str) -> None:
    check_curve(REGISTRY.curves.get(name)())
    check_curve(REGISTRY.curves.get(name)(warmup_epochs=2.5))


@pytest.mark.parametrize("name", sorted(REGISTRY.image_transforms))
def test_each_built_in_image_transform_keeps_the_contract(name: str) -> None:
    check_image_transform(REGISTRY.image_transforms.get(name)())


@pytest.mark.parametrize("name", sorted(REGISTRY.batch_transforms))
def test_each_built_in_batch_transform_keeps_the_contract(name: str) -> None:
    check_batch_transform(REGISTRY.batch_transforms.get(name)())


@pytest.mark.parametrize("name", sorted(REGISTRY.exporters))
def test_each_built_in_exporter_keeps_the_contract(name: str) -> None:
    try:
        check_exporter(REGISTRY.exporters.get(name)())
    except RequestError as error:
        pytest.skip(str(error))


# Metrics


class Right(MeanMetric):
    """Part of the images whose prediction is right, with a fault as planted."""

    label = "right"
    fault = ""

    def per_image(self, outputs: Outputs) -> Array:
        right: Array = outputs.right
        return right

    def undefined(self, support: Sequence[int], images: int, classes: Sequence[str]) -> str:
        return "it is Sunday" if self.fault == "undefined" else ""

    def value(self, outputs: Outputs) -> float:
        value = super().value(outputs)
        if self.fault == "order":
            return value + float(outputs.targets[0])
        if self.fault == "calls":
            return value + next(CALLS)
        if self.fault == "missing" and not outputs.support.all():
            return float("nan")
        return {"nan": float("nan"), "type": torch.tensor(value)}.get(self.fault, value)  # type: ignore[return-value]

    def resampler(self, outputs: Outputs) -> Callable[[Array], Array]:
        inner = super().resampler(outputs)
        if self.fault == "resampler":
            return lambda counts: inner(counts) + 0.1
        return (lambda counts: inner(counts)[:, None]) if self.fault == "shape" else inner


@pytest.mark.parametrize(
    ("planted", "says"),
    [
        ("label", "it has no label"),
        ("task", "its tasks are ('detection',)"),
        ("undefined", "undefined although all classes have images: it is Sunday"),
        ("nan", "not a finite float"),
        ("type", "not a finite float"),
        ("calls", "differs in a second call"),
        ("order", "depends on the order of the images"),
        ("direction", "for right and"),
        ("resampler", "for all images once"),
        ("shape", "returns shape (4, 1)"),
        ("missing", "if a class has no images"),
    ],
)
def test_a_faulty_metric_is_found(planted: str, says: str) -> None:
    planted_attributes: dict[str, dict[str, object]] = {
        "label": {"label": ""},
        "task": {"tasks": ("detection",)},
        "direction": {"lower_is_better": True},
    }
    attributes = planted_attributes.get(planted, {})
    faulty = type("Faulty", (Right,), {"fault": planted, **attributes})
    check_metric(Right())
    assert says in fault(lambda: check_metric(faulty()))


# Tasks


@dataclass(frozen=True)
class Cautious(Multilabel):
    """Several labels per image, with a fault as planted."""

    fault: str = ""

    def scores(self, logits: Tensor) -> Tensor:
        return logits if self.fault == "scores" else super().scores(logits)

    def averaged(self, logits: Tensor, weights: Tensor) -> Tensor:
        return logits.mean(dim=0) if self.fault == "mean" else Task.averaged(self, logits, weights)

    def fit_decision(self, logits: Tensor, targets: Tensor) -> Mapping[str, Any]:
        return {"thresholds": torch.zeros(4)} if self.fault == "json" else {"thresholds": [0.3] * logits.shape[1]}

    def predicted(self, scores: Sequence[float], decision: Mapping[str, Any]) -> tuple[int, ...]:
        return super().predicted(scores, {} if self.fault == "decision" else decision)

    def reordered(self, targets: Tensor, places: Sequence[int]) -> Tensor:
        return targets if self.fault == "order" else super().reordered(targets, places)

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        return super().correct(logits, targets).float() if self.fault == "correct" else super().correct(logits, targets)

    def check(self, splits: Splits) -> None:
        if self.fault == "refuse":
            raise RequestError("no such labels")


@pytest.mark.parametrize(
    ("planted", "says"),
    [
        ("scores", "its scores are not from 0 to 1"),
        ("mean", "the scores of averaged() are not the weighted mean of the scores"),
        ("json", "which isn't JSON"),
        ("decision", "and its outputs predict"),
        ("order", "doesn't move class places[i] to i"),
        ("correct", "gives torch.float32 (24,), not bool"),
        ("refuse", "it refuses class indices and sets of them: no such labels"),
    ],
)
def test_a_faulty_task_is_found(planted: str, says: str) -> None:
    check_task(Cautious())
    assert says in fault(lambda: check_task(Cautious(fault=planted)))


# Losses


@dataclass(frozen=True)
class Squared(Loss):
    """Squared error of the probabilities, with a fault as planted."""

    fault: str = ""

    def per_image(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        soft = targets if targets.is_floating_point() else nn.functional.one_hot(targets, logits.shape[1])
        losses = (logits.softmax(1) - soft).square().sum(1)
        if self.fault == "soft" and not targets.is_floating_point():
            return losses * 2
        planted: dict[str, Callable[[], Tensor]] = {
            "shape": losses.mean,
            "finite": lambda: losses / (logits.abs().amax(1) < 20),
            "gradient": losses.detach,
            "constant": lambda: losses * 0,
            "batch": lambda: losses * losses.mean(),
            "direction": lambda: -losses,
        }
        return planted.get(self.fault, lambda: losses)()

    def total(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        losses = self.per_image(logits, targets, smoothing)
        return losses.mean() if self.fault == "total" else losses.sum()


@pytest.mark.parametrize(
    ("planted", "says"),
    [
        ("shape", "have shape (), not (12,)"),
        ("finite", "not finite for logits of 30"),
        ("gradient", "have no gradient"),
        ("constant", "its gradient is 0"),
        ("batch", "depends on the other images"),
        ("soft", "one-hot targets give another loss"),
        ("total", "differs from that of `per_image`"),
        ("direction", "no smaller loss than wrong ones"),
    ],
)
def test_a_faulty_loss_is_found(planted: str, says: str) -> None:
    check_loss(Squared())
    assert says in fault(lambda: check_loss(Squared(planted)))


# Optimizers


class Momentum(torch.optim.Optimizer):
    """Gradient descent with momentum, with a fault as planted."""

    def __init__(self, groups: Any, lr: float, fault: str) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.1})
        self.fault = fault
        self.hidden: dict[Any, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            rate = 0.01 if self.fault == "rate" else group["lr"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    if self.fault == "frozen":
                        parameter.mul_(1 - rate * group["weight_decay"])
                    continue
                state: dict[Any, Tensor] = self.hidden if self.fault == "hidden" else self.state[parameter]
                key = parameter if self.fault == "hidden" else "velocity"
                velocity = state.get(key, torch.zeros_like(parameter)) * 0.5 + parameter.grad
                state[key] = velocity
                if self.fault == "state":
                    self.state[parameter]["note"] = "moved"
                parameter.sub_(velocity * (-rate if self.fault == "ascent" else rate))


@dataclass(frozen=True)
class MomentumOptimizer(Optimizer):
    fault: str = ""

    def build(self, groups: Sequence[dict[str, Any]], lr: float, fused: bool = False) -> torch.optim.Optimizer:
        return "none" if self.fault == "type" else Momentum(list(groups), lr, self.fault)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("planted", "says"),
    [
        ("type", "build() returned str"),
        ("ascent", "the loss doesn't fall"),
        ("frozen", "changes a parameter without a gradient"),
        ("state", "its state 'note' is str"),
        ("hidden", "steps after loading its state differ"),
        ("rate", "doesn't use the learning rate"),
    ],
)
def test_a_faulty_optimizer_is_found(planted: str, says: str) -> None:
    check_optimizer(MomentumOptimizer())
    assert says in fault(lambda: check_optimizer(MomentumOptimizer(planted)))


# Curves


@dataclass(frozen=True)
class Falling(Curve):
    fault: str = ""

    def shape(self, progress: float, epoch: float) -> float:
        planted: dict[str, Callable[[], Any]] = {
            "nan": lambda: float("nan"),
            "high": lambda: 2.0 - progress,
            "low": lambda: 0.5 * (1 - progress),
            "calls": lambda: 1 / (1 + next(CALLS)),
            "type": lambda: "1",
        }
        return planted.get(self.fault, lambda: 1 - progress)()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Never(Curve):
    def shape(self, progress: float, epoch: float) -> float:
        raise RequestError("not today")


@pytest.mark.parametrize(
    ("planted", "says"),
    [
        ("nan", "is nan, not from 0 to 1"),
        ("high", "is 2.0, not from 0 to 1"),
        ("low", "its largest factor is 0.5"),
        ("calls", "differ in a second call"),
        ("type", "is str, not a float"),
    ],
)
def test_a_faulty_curve_is_found(planted: str, says: str) -> None:
    check_curve(Falling())
    assert says in fault(lambda: check_curve(Falling(fault=planted)))
    assert "it refuses every run" in fault(lambda: check_curve(Never()))


# Image transforms


@dataclass(frozen=True)
class Dim(ImageTransform):
    """Darkens an image at random, with a fault as planted."""

    fault: str = ""
    work: Any = field(default=None, repr=False)

    def apply(self, image: Tensor) -> Tensor:
        if self.fault == "input":
            image.fill_(7)
        if self.fault == "colour" and image.shape[0] == 1:
            return image.expand(3, -1, -1)
        chance = {"python": random.random, "numpy": np.random.rand, "calls": lambda: 1 / (2 + next(CALLS))}
        factor = float(chance.get(self.fault, lambda: torch.rand(()).item())())
        found = (image * factor).to(torch.uint8)
        return {"type": found.float(), "shape": found[:, 1:]}.get(self.fault, found)


@pytest.mark.parametrize(
    ("planted", "says"),
    [
        ("input", "changes its input"),
        ("type", "not uint8 of the same shape"),
        ("shape", "not uint8 of the same shape"),
        ("colour", "for an image (1, 32, 32) it returns torch.uint8 (3, 32, 32)"),
        ("calls", "another image with the same seed"),
        ("python", "depends on Python's or NumPy's random numbers"),
        ("numpy", "depends on Python's or NumPy's random numbers"),
    ],
)
def test_a_faulty_image_transform_is_found(planted: str, says: str) -> None:
    check_image_transform(Dim())
    assert says in fault(lambda: check_image_transform(Dim(planted)))
    assert "can't be pickled" in fault(lambda: check_image_transform(Dim(work=lambda: None)))


# Batch transforms


@dataclass(frozen=True)
class Blend(BatchTransform):
    """Blends each image with the next one, with a fault as planted."""

    fault: str = ""

    def apply(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chance = None if self.fault == "default" else generator
        share = torch.rand((), generator=chance).item() / (1 + (next(CALLS) if self.fault == "calls" else 0))
        blended = [(1 - share) * each + share * each.roll(1, 0) for each in (images, targets)]
        planted = {
            "range": (blended[0], blended[1] * 2),
            "sum": (blended[0], blended[1] * 0.5),
            "shape": (blended[0], blended[1].argmax(1)),
            "type": (blended[0].double(), blended[1]),
            "finite": (blended[0] / 0, blended[1]),
        }
        return planted.get(self.fault, (blended[0], blended[1]))


@dataclass(frozen=True)
class Single(Blend):
    def apply(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return (images / images.std(0, correction=0), targets) if len(images) == 1 else (images, targets)


@pytest.mark.parametrize(
    ("planted", "says"),
    [
        ("range", "not from 0 to 1"),
        ("sum", "don't sum to 1"),
        ("shape", "its targets are torch.int64"),
        ("type", "its images are torch.float64"),
        ("finite", "its images are not finite"),
        ("default", "it uses torch's default generator"),
        ("calls", "differs with the same seed"),
    ],
)
def test_a_faulty_batch_transform_is_found(planted: str, says: str) -> None:
    check_batch_transform(Blend())
    assert says in fault(lambda: check_batch_transform(Blend(fault=planted)))
    assert "for a batch of 1 its images are not finite" in fault(lambda: check_batch_transform(Single()))


# Exporters


MODELS: dict[Path, nn.Module] = {}


@dataclass(frozen=True)
class InMemory(Exporter):
    """Keeps the network in memory, with a fault as planted."""

    fault: str = ""

    def export(self, model: TrainedModel, images: Tensor, folder: Path) -> tuple[Path, ...]:
        network = model.network
        file = (folder.parent if self.fault == "outside" else folder) / "model.pt"
        file.write_text("a model")
        MODELS[file] = deepcopy(network)
        if self.fault == "weights":
            with torch.no_grad():
                next(network.parameters()).add_(1)
        if self.fault == "mode":
            network.train()
        return () if self.fault == "none" else (file, folder / "labels.txt") if self.fault == "absent" else (file,)

    def load(self, folder: Path) -> Callable[[Tensor], Tensor]:
        def compute(images: Tensor) -> Tensor:
            with torch.inference_mode():
                logits: Tensor = MODELS[folder / "model.pt"](images)
            if self.fault == "batch" and len(images) != 2:
                return logits[:0]
            return logits + 0.01 if self.fault == "values" else logits

        return compute


@pytest.mark.parametrize(
    ("planted", "says"),
    [
        ("none", "it returned no file"),
        ("outside", "outside of the folder that it was given"),
        ("absent", "it returned labels.txt, which it didn't write"),
        ("weights", "it changes the model's 0.weight"),
        ("mode", "leaves the model in training mode"),
        ("values", "differs by 0.01 from the model's, more than the tolerance of 0.0001"),
        ("batch", "returns logits of shape (0, 5) for 1 image"),
    ],
)
def test_a_faulty_exporter_is_found(planted: str, says: str) -> None:
    check_exporter(InMemory())
    assert says in fault(lambda: check_exporter(InMemory(planted)))


# Callbacks


@dataclass
class Counter(Callback):
    """Counts steps and averages weights, with a fault as planted."""

    fault: str = ""
    work: Any = field(default=None, repr=False)
    steps: int = field(default=0, init=False)
    mean: Tensor = field(default_factory=lambda: torch.zeros(()), init=False)

    def on_step_end(self, run: Any) -> None:
        self.steps += 1
        weight = next(run.network.parameters())
        self.mean = self.mean * 0.5 + weight.detach().mean() * 0.5
        if self.fault == "weights":
            with torch.no_grad():
                weight.mul_(1 + 0.01 * self.steps)

    def on_epoch_end(self, run: Any, record: Mapping[str, Any]) -> Mapping[str, float]:
        return {"steps_so_far": self.steps, "mean_weight": self.mean.item()}

    def state_dict(self) -> Mapping[str, Any]:
        state = {"steps": self.steps, "mean": self.mean, "more": [1, {"a": None}]}
        planted: dict[str, Any] = {
            "type": {"steps": {1, 2}},
            "key": {1: 2},
            "list": [1],
            "steps": {"mean": self.mean},
            "weights": {"mean": self.mean},
        }
        return planted.get(self.fault, state)  # type: ignore[no-any-return]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.mean, self.steps = state["mean"], state.get("steps", 0)


class Bare(Callback):
    pass


@pytest.mark.parametrize(
    ("planted", "says"),
    [
        ("type", "the state of callback 'callback' has {1, 2}, which can't be saved"),
        ("key", "the state of callback 'callback' has {1: 2}, which can't be saved"),
        ("list", "returned list (return a mapping)"),
        ("steps", "after a stop at step 2 and a resume the records of the epochs differ"),
        ("weights", "after a stop at step 2 and a resume"),
    ],
)
def test_a_faulty_callback_is_found(planted: str, says: str) -> None:
    assert says in fault(lambda: check_callback(Counter(planted)))


def test_a_callback_that_saves_its_state_keeps_the_contract() -> None:
    check_callback(Counter())
    assert "Bare is not a dataclass" in fault(lambda: check_callback(Bare()))
    assert "can't be pickled" in fault(lambda: check_callback(Counter(work=lambda: None)))


class Undecorated(Falling):
    final: float = 0.1


def test_a_part_must_be_a_frozen_dataclass() -> None:
    assert fault(lambda: check_curve(Undecorated())).startswith("Undecorated is not a frozen dataclass")
