"""Networks that are cut by replaying their own forward pass: what is computed once, and what can't be."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from ftkit.activation_cache.cutting.cut import Cut, NoCutError
from ftkit.activation_cache.cutting.replayed_cuts import ReplayedCuts
from ftkit.api import LayerGroup
from ftkit.models.parameter_groups import set_trainable

GROUPS = (LayerGroup("stem", "stem|token|act"), LayerGroup("body", "body"), LayerGroup("head", "head"))


class Network(nn.Module):
    """Three groups, whose layers a subclass calls in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem: nn.Module = nn.Conv2d(3, 4, 3)
        self.body: nn.Module = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 2)
        self.act = nn.ReLU()

    def forward(self, images: Tensor) -> Any:
        high = self.act(self.body(self.act(self.stem(images))))
        return self.head(high.mean((2, 3)))


class Sizes(NamedTuple):
    value: Tensor
    height: int
    more: dict[str, Tensor | None]


class Nested(Network):
    """A stem that returns a size and an unused tensor beside its output."""

    class Stem(nn.Conv2d):
        def forward(self, images: Tensor) -> Sizes:  # type: ignore[override]
            value = super().forward(images)
            return Sizes(value, value.shape[2], {"none": None, "unused": value[:, 0]})

    def __init__(self) -> None:
        super().__init__()
        self.stem = self.Stem(3, 4, 3)

    def forward(self, images: Tensor) -> Any:
        found = self.stem(images)
        assert found.height == found.value.shape[2]
        return self.head(self.body(found.value).mean((2, 3)))


class InPlace(Network):
    """Code between layers that changes their outputs."""

    def forward(self, images: Tensor) -> Any:
        low = self.stem(images)
        low += 1
        high = self.body(low)
        high.relu_()
        return self.head(high.mean((2, 3)))


class Skips(Network):
    """The head uses the outputs of two layers."""

    def forward(self, images: Tensor) -> Any:
        low = self.stem(images)
        return self.head((self.body(low) + low.roll(1, 0).roll(-1, 0)).mean((2, 3)))


class Tokens(Network):
    """The head uses the first of many tokens; they are made by code of the network itself."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.body = nn.TransformerEncoderLayer(4, 1, 8, batch_first=True)

    def forward(self, images: Tensor) -> Any:
        patches = self.stem(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(images), -1, -1), patches], 1)
        return self.head(self.body(tokens)[:, 0])


class Windows(Network):
    """A batch that is four times as large within the network."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(9, 9)

    def forward(self, images: Tensor) -> Any:
        low = self.stem(images)
        return self.head(self.body(low.flatten(2).reshape(len(low) * 4, 4, 9)).reshape(len(low), 4, 36).mean(2))


class Table(Network):
    """A layer whose output has no row for an image."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, width: int) -> Tensor:
            return self.scale * width

    def __init__(self) -> None:
        super().__init__()
        self.stem_positions = self.Positions()

    def forward(self, images: Tensor) -> Any:
        positions = self.stem_positions(images.shape[3])
        return self.head(self.body(self.stem(images)).mean((2, 3)) + positions)


class Sum(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return value + value.sum()


class Images(Network):
    """Its head uses the images themselves."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images) + images.mean()


class Detached(Network):
    """Its first layer is frozen, and computes with weights that train."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images * self.head.weight.detach().sum())


class Mixes(Network):
    """Each image's output depends on the other images."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 1), Sum())

    def forward(self, images: Tensor) -> Any:
        return self.head(self.body(self.stem(images)).mean((2, 3)))


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def cut(network: nn.Module, *trainable: str) -> tuple[ReplayedCuts, Cut]:
    cuts = ReplayedCuts(network, images(), nullcontext)
    return cuts, cuts.cut(set_trainable(network, GROUPS, frozenset(trainable)))


EXPECTED: list[tuple[Callable[[], Network], tuple[str, ...], str, tuple[int, ...]]] = [
    (Network, ("head",), "act()#1", (4, 6, 6)),
    (Network, ("body", "head"), "act()", (4, 6, 6)),
    (Nested, ("body", "head"), "stem()", (4, 6, 6)),
    (InPlace, ("head",), "body()", (4, 6, 6)),
    (InPlace, ("body", "head"), "stem()", (4, 6, 6)),
    (Skips, ("head",), "stem()", (4, 6, 6)),
    (Tokens, ("head",), "body()[:, 0:1]", (1, 4)),
    (Tokens, ("body", "head"), "stem()", (4, 6, 6)),
    (Windows, ("head",), "body()", (144,)),
    (Table, ("head",), "body()", (4, 6, 6)),
]


@pytest.mark.parametrize(("make", "trainable", "name", "shape"), EXPECTED)
def test_the_parts_are_the_network_for_any_number_of_images(
    make: Callable[[], Network], trainable: tuple[str, ...], name: str, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    network = make()
    cuts, found = cut(network, *trainable)
    assert (found.name, found.shape) == (name, shape)
    for count in (5, 1):
        with torch.no_grad():
            (rows,) = cuts.prefix([name])(images(count))
        network.eval()
        torch.testing.assert_close(found.eval_suffix(rows.clone()), network(images(count)), rtol=0, atol=0)
    learns = {n for n, p in found.train_suffix.named_parameters() if p.requires_grad}
    assert learns == {n for n, p in network.named_parameters() if p.requires_grad}


def test_a_layer_that_ran_before_runs_again_after_the_cut() -> None:
    network = Network()
    _, found = cut(network, "body", "head")
    seen: list[Tensor] = []
    network.act.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    found.eval_suffix(torch.randn(3, *found.shape))
    assert len(seen) == 1


def test_frozen_layers_dont_compute() -> None:
    network = Network()
    _, found = cut(network, "head")
    for layer in (network.stem, network.body):
        layer.register_forward_hook(lambda *_: pytest.fail("it computes"))
    found.eval_suffix(torch.randn(3, *found.shape))


def test_what_a_hook_makes_of_an_output_is_cached() -> None:
    network = Network()
    network.body.register_forward_hook(lambda _module, _inputs, output: output * 2)
    cuts, found = cut(network, "head")
    with torch.no_grad():
        (rows,) = cuts.prefix([found.name])(images(3))
    network.eval()
    assert torch.equal(found.eval_suffix(rows), network(images(3)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Images, "later layers use the images themselves"),
        (Detached, "depends on layers that train"),
    ],
)
def test_what_bypasses_the_cut_is_refused(make: Callable[[], Network], said: str) -> None:
    with pytest.raises(NoCutError, match=said):
        cut(make(), "body", "head")


def test_a_layer_that_mixes_images_is_not_before_the_cut() -> None:
    assert cut(Mixes(), "head")[1].name == "body.0()"


def test_a_network_that_isnt_changed_and_code_that_is() -> None:
    network = Network()
    before = {name: vars(module).copy() for name, module in network.named_modules()}
    cuts, found = cut(network, "head")
    assert {name: vars(module).keys() for name, module in network.named_modules()} == {
        name: attributes.keys() for name, attributes in before.items()
    }
    identity = cuts.identity(found.name)
    assert identity == cut(Network(), "head")[0].identity(found.name)
    vars(network.body)["stride"] = (1, 1, 1)
    assert cuts.identity(found.name) != identity


def test_a_key_has_the_parameters_that_the_activations_depend_on() -> None:
    network = Tokens()
    cuts, found = cut(network, "head")
    assert {"stem.weight", "token", "body.linear1.weight"} <= {name for name, _ in cuts.state(found.name)}
    cuts, found = cut(network, "body", "head")
    assert {name for name, _ in cuts.state(found.name)} == {"stem.weight", "stem.bias"}


def test_activations_at_several_cuts_are_computed_in_one_pass() -> None:
    network = InPlace()
    cuts, _ = cut(network, "head")
    names = ["body()", "stem()"]
    with torch.no_grad():
        alone = [cuts.prefix([name])(images())[0] for name in names]
        together = cuts.prefix(names)(images())
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_a_model_that_is_only_evaluated_is_cut_at_the_same_place() -> None:
    network = Tokens()
    _, found = cut(network, "head")
    again = ReplayedCuts(network.requires_grad_(True), images(), nullcontext).cut_at(found.name)
    rows = torch.randn(3, *found.shape)
    assert torch.equal(found.eval_suffix(rows), again.eval_suffix(rows))
    with pytest.raises(NoCutError):
        ReplayedCuts(network, images(), nullcontext).cut_at("head()[:, 0:1]")
