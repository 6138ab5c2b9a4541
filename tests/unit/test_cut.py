"""Where a network can be cut in two, and where it can't."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ftkit.activation_cache.cutting.cut import Cut, NoCutError
from ftkit.activation_cache.cutting.finder import CutFinder
from ftkit.api import LayerGroup
from ftkit.models.parameter_groups import set_trainable

GROUPS = tuple(LayerGroup(name, rf"{name}\.") for name in ("stem", "body", "head"))


class Network(nn.Module):
    """Three groups, with what may come between them."""

    def __init__(self, between: nn.Module | None = None, skip: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.body = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout(0.5), nn.ReLU(inplace=True))
        self.between = between
        self.skip = skip
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        low = self.stem(images)
        high = self.body(low)
        if self.between is not None:
            high = self.between(high)
        if self.skip:
            high = high + low
        out: Tensor = self.head(high.mean((2, 3)))
        return out


def sample() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def cut(network: nn.Module, *trainable: str, train_bn: bool = False) -> Cut:
    cut_finder = CutFinder(network, sample(), nullcontext)
    return cut_finder.cut(set_trainable(network, GROUPS, frozenset(trainable), train_bn))


def test_all_that_is_frozen_lies_before_the_cut() -> None:
    found = cut(Network(), "head")
    assert (found.name, found.shape, found.dtype) == ("mean", (4,), torch.float32)
    assert cut(Network(), "body", "head").name == "stem.2"


def test_both_parts_together_are_the_network_and_training_the_rest_trains_it() -> None:
    network = Network()
    cut_finder = CutFinder(network, sample(), nullcontext)
    modes = set_trainable(network, GROUPS, frozenset({"body", "head"}))
    found = cut_finder.cut(modes)
    images = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        (value,) = cut_finder.prefix([found.name])(images)
    network.eval()
    assert torch.equal(found.eval_suffix(value.clone()), network(images))
    modes.apply()
    found.train_suffix(value).sum().backward()
    assert network.body[0].weight.grad is not None
    assert network.stem[0].weight.grad is None


def test_finding_a_cut_changes_nothing() -> None:
    network = Network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    modes = set_trainable(network, GROUPS, frozenset({"body", "head"}))
    training = [module.training for module in network.modules()]
    CutFinder(network, sample(), nullcontext).cut(modes)
    assert [module.training for module in network.modules()] == training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_activations_at_several_cuts_are_computed_in_one_pass_though_later_layers_work_in_place() -> None:
    network = Network()
    cut_finder = CutFinder(network, sample(), nullcontext)
    names = [cut_finder.cut(set_trainable(network, GROUPS, frozenset(t))).name for t in (("body", "head"), ("head",))]
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        alone = [cut_finder.prefix([name])(images)[0] for name in names]
        together = cut_finder.prefix(names)(images)
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_the_cut_is_before_an_output_that_several_later_layers_use() -> None:
    assert cut(Network(skip=True), "head").name == "mean"
    network = Network(skip=True)
    found = cut(network, "body", "head")
    assert found.name == "stem.2"


def test_batchnorm_that_learns_statistics_is_not_before_the_cut() -> None:
    assert cut(Network(), "head", train_bn=True).name == "stem.0"


class Noise(nn.Module):
    """Random in evaluation too, which no mode tells."""

    def forward(self, value: Tensor) -> Tensor:
        return value + torch.rand_like(value)


class HiddenNoise(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return F.dropout(value, 0.5, True)


@pytest.mark.parametrize("noise", [Noise(), HiddenNoise()], ids=["rand", "dropout"])
def test_what_is_random_is_not_before_the_cut(noise: nn.Module) -> None:
    assert cut(Network(noise), "head").name == "body.2"


class Choosy(nn.Module):
    """Decides by the values of all images."""

    def forward(self, value: Tensor) -> Tensor:
        return value if value.sum() > 0 else -value


def test_a_layer_that_decides_by_values_is_not_before_the_cut() -> None:
    assert cut(Network(Choosy()), "head").name == "body()"


class Elsewhere(nn.Module):
    """What a trace can't see: the same graph, another value each time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, value: Tensor) -> Tensor:
        self.calls += 1
        return value * self.calls


def test_parts_that_dont_compute_what_the_network_computes_are_not_used() -> None:
    with pytest.raises(NoCutError, match="varies with other images or from pass to pass"):
        cut(Network(Elsewhere()), "head")


def test_where_the_first_layers_train_there_is_no_cut() -> None:
    with pytest.raises(NoCutError, match="first layers train"):
        cut(Network(), "stem", "head")


def test_a_network_is_cut_only_where_it_can_be() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2)).eval()
    cut_finder = CutFinder(network, torch.ones(2, 3), torch.no_grad)
    assert cut_finder.cut_at("0").shape == (3,)
    with pytest.raises(NoCutError, match="can't be cut after"):
        cut_finder.cut_at("elsewhere")
