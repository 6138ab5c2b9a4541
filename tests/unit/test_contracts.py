"""The checks for authors find what would hurt a user, and pass what wouldn't."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ftkit.api import Backbone, Dataset, LayerGroup, Preprocessing, Split, Splits, Strategy, Then
from ftkit.builtin.strategies.selective import Freezer
from ftkit.builtin.strategies.unfreezing import Auto, Freeze, Gradual, Probe
from ftkit.testing import ContractError, check_backbone, check_dataset, check_strategy, make_image_folder
from tests.models import part, parts


def fault(check: Callable[[], object]) -> str:
    with pytest.raises(ContractError) as caught:
        check()
    return str(caught.value)


# Strategies


BUILT_IN = set(parts("strategies").values())
TRAINED = sorted(BUILT_IN - {Auto, Probe, Then}, key=lambda cls: cls.__name__)
OPTIONS: dict[type[Strategy], dict[str, object]] = {
    Freezer: {"name_starts_with": ("conv1", "layer1"), "until_epoch": 3}
}


@pytest.mark.parametrize("cls", TRAINED)
def test_each_built_in_strategy_keeps_the_contract(cls: type[Strategy]) -> None:
    check_strategy(cls(**OPTIONS.get(cls, {})))


def test_two_strategies_joined_keep_the_contract() -> None:
    check_strategy(Then(Freeze(), Gradual(), at=2), lengths=(5,))


@dataclass(frozen=True)
class Moody(Strategy):
    """Answers by how often it was asked."""

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        ASKED.append(epoch)
        return {groups[-1]: float(len(ASKED))}


ASKED: list[int] = []


class Bare(Gradual):
    """Derived, and not decorated: its fields would be nobody's options."""

    every: int | None = 3


@dataclass(frozen=True)
class ByRank(Strategy):
    """Trains at another rate in each process."""

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        return {groups[-1]: 1.0 + float(os.environ.get("RANK", "0"))}


@pytest.mark.long
def test_processes_must_end_with_the_same_weights() -> None:
    check_strategy(Gradual(), lengths=(2,), processes=2)
    assert "2 processes end with different weights" in fault(
        lambda: check_strategy(ByRank(), lengths=(1,), processes=2)
    )


@dataclass(frozen=True)
class Leaky(Strategy):
    """Moves the first layer by itself, which it says is frozen."""

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        return {groups[-1]: 1.0}

    def adapt(self, model: nn.Module, backbone: Backbone) -> nn.Module:
        weight = model.get_parameter("conv1.weight")

        def move(*_: object) -> None:
            weight.data.add_(0.01)

        model.register_forward_hook(move)
        return model


def test_what_is_frozen_must_not_move() -> None:
    assert "conv1.weight changed in epoch 2, in which it was frozen" in fault(
        lambda: check_strategy(Leaky(), lengths=(2,))
    )


def test_a_strategy_must_be_pure() -> None:
    assert "isn't pure: lr_scales(0, 1, ...) gave" in fault(lambda: check_strategy(Moody()))


def test_a_strategy_must_be_a_frozen_dataclass() -> None:
    assert fault(lambda: check_strategy(Bare())).startswith("Bare is not a frozen dataclass")


def test_a_strategy_must_pickle() -> None:
    @dataclass(frozen=True)
    class Local(Strategy):
        def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
            return {groups[-1]: 1.0}

    assert "it can't be pickled" in fault(lambda: check_strategy(Local()))


# Datasets


@dataclass(frozen=True)
class Squares(Dataset):
    """Squares of one colour, with a fault as asked."""

    fault: str = ""

    def load(self) -> Splits:
        names = ["a", "b", "c", "d"]
        labels = [0, 1, 0, 1]
        if self.fault == "order":
            names = [f"{name}{next(COUNTER)}" for name in names]
        if self.fault == "names":
            names[1] = "a"
        if self.fault == "labels":
            labels[2] = 2
        if self.fault == "lengths":
            labels.append(1)
        opener: Callable[[int], Image.Image] = {"lambda": lambda index: square(index), "image": text}.get(
            self.fault, square
        )
        classes = ("x", "x") if self.fault == "classes" else ("x", "y")
        return Splits(classes, Split(names, labels, opener))


COUNTER = iter(range(1000))


def square(index: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (index * 20, 0, 0))


def text(index: int) -> Image.Image:
    return "no image"  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("order", "the second time"),
        ("names", "duplicate sample name"),
        ("labels", "is 2, which is not an index of the 2 classes"),
        ("lengths", "4 names, 5 labels"),
        ("lambda", "can't be pickled for worker processes"),
        ("image", "open returned str"),
        ("classes", "duplicate class"),
    ],
)
def test_a_dataset_at_fault_is_found(kind: str, says: str) -> None:
    assert says in fault(lambda: check_dataset(Squares(kind)))


def test_a_dataset_that_keeps_the_contract_is_returned_loaded(tmp_path: Path) -> None:
    assert check_dataset(Squares()).classes == ("x", "y")
    folder = make_image_folder(tmp_path, {"train": {"a": 3, "b": 3}, "val": {"a": 1, "b": 1}})
    assert check_dataset(part("datasets", "folder")(root=folder)).val is not None


def test_a_dataset_whose_image_is_cut_short_is_found(tmp_path: Path) -> None:
    folder = make_image_folder(tmp_path, {"a": 2, "b": 2})
    broken = folder / "a" / "0000.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    dataset = part("datasets", "folder")(root=folder)
    assert "0000.jpg" in fault(lambda: check_dataset(dataset))


# Backbones


class Tiny(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(4, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.stem(images).mean(dim=(2, 3)))
        return logits


class Whole(Tiny):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        del self.unused


GROUPS = (LayerGroup("stem", r"stem\."), LayerGroup("head", r"head\."))
TINY = Backbone("tiny", GROUPS, ("head",), Whole, Preprocessing(size=16))


class Branching(Whole):
    """Goes through one of two layers, by chance or by the image."""

    how = "torch"

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.stem.append(nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        draws: Mapping[str, Callable[[], bool]] = {
            "torch": lambda: torch.rand(()).item() < 0.7,
            "python": lambda: random.random() < 0.7,
            "numpy": lambda: np.random.rand() < 0.7,
            "image": lambda: images.mean().item() < 0.5,
            "never": lambda: True,
        }
        first = draws[self.how]()
        found = self.stem[1](self.stem[0](images))
        branches = self.stem[2]
        assert isinstance(branches, nn.ModuleList)
        logits: torch.Tensor = self.head(branches[0 if first or not self.training else 1](found).mean(dim=(2, 3)))
        return logits


@pytest.mark.parametrize("how", ["torch", "python", "numpy", "image", "never"])
def test_the_verdict_on_a_network_that_branches_is_the_same_each_time(how: str) -> None:
    kind = type("Kind", (Branching,), {"how": how})
    for _ in range(6):
        if how == "never":
            assert "stem.2.1.weight, stem.2.1.bias get no gradient" in fault(
                lambda: check_backbone(replace(TINY, build=kind))
            )
        else:
            check_backbone(replace(TINY, build=kind))


def test_a_check_leaves_the_random_numbers_of_its_caller_alone() -> None:
    drawn = []
    for checked in (False, True):
        random.seed(3), np.random.seed(3), torch.manual_seed(3)
        if checked:
            check_backbone(TINY)
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert drawn[0] == drawn[1]


def test_a_backbone_that_keeps_the_contract_passes() -> None:
    check_backbone(TINY)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (replace(TINY, build=Tiny), "parameter unused.weight is in none of its layer groups"),
        (replace(TINY, groups=(LayerGroup("stem", r"stem|unused"), GROUPS[1]), build=Tiny), "unused"),
        (replace(TINY, groups=(LayerGroup("all", r"stem|head"), GROUPS[1])), "is in all, head of its layer groups"),
        (replace(TINY, groups=(GROUPS[0], LayerGroup("top", r"head\."))), "its last layer group is top"),
        (replace(TINY, groups=(GROUPS[0], LayerGroup("more", "more"), GROUPS[1])), "layer group more is empty"),
        (replace(TINY, build=lambda classes: Whole(classes + 1)), "has 8 outputs for 7 classes"),
    ],
)
def test_a_backbone_at_fault_is_found(broken: Backbone, says: str) -> None:
    assert says in fault(lambda: check_backbone(broken))
