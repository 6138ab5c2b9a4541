"""The optimizer holds every group from the start, and refuses options that it would not use."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import nn

from ftkit.config.schema import Optimizer
from ftkit.errors import RequestError
from ftkit.optim.optimizer_names import DEFAULT_DECAY, OPTIMIZERS
from ftkit.optim.optimizer_options import FIRST_RATE_ALONE, UNFIT, option_faults
from ftkit.optim.optimizers import build_optimizer, check_options, optimizer_class, set_learning_rates

SWITCHES = {"self", "params", "lr", "foreach", "maximize", "capturable", "differentiable"}
"""Arguments that don't change what is learnt, or turn learning round."""


def test_groups_are_in_order_and_named() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    members = {"body": ["0.weight", "0.bias"], "rest": [], "head": ["1.weight", "1.bias"]}
    optimizer = build_optimizer(Optimizer.model_validate({"name": "sgd", "lr": 0.1, "momentum": 0.9}), model, members)
    assert [(g["name"], len(g["params"]), g["momentum"]) for g in optimizer.param_groups] == [
        ("body", 2, 0.9),
        ("rest", 0, 0.9),
        ("head", 2, 0.9),
    ]


def decays(settings: dict[str, object], decay_all: bool = False) -> list[tuple[str, int, float]]:
    """Name, number of parameters and weight decay of each parameter group."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.LayerNorm(4), nn.Linear(4, 2, bias=False))
    members = {"stem": ["0.weight", "0.bias"], "norms": ["1.weight", "1.bias", "2.weight", "2.bias"]}
    members["head"] = ["3.weight"]
    optimizer = build_optimizer(Optimizer.model_validate(settings), model, members, decay_all)
    return [(g["name"], len(g["params"]), g.get("weight_decay", 0.0)) for g in optimizer.param_groups]


def test_weight_decay_spares_biases_and_norms() -> None:
    apart = [("stem", 1, 0.3), ("stem", 1, 0.0), ("norms", 0, 0.3), ("norms", 4, 0.0), ("head", 1, 0.3)]
    assert decays({"name": "sgd", "weight_decay": 0.3}) == apart
    assert decays({"name": "adamw"}) == [(name, count, decay and 0.01) for name, count, decay in apart]


def test_decay_of_all_or_of_nothing_needs_one_group_each() -> None:
    assert decays({"name": "adamw"}, decay_all=True) == [("stem", 2, 0.01), ("norms", 4, 0.01), ("head", 1, 0.01)]
    for name in ("sgd", "rprop"):
        assert decays({"name": name}) == [("stem", 2, 0.0), ("norms", 4, 0.0), ("head", 1, 0.0)]
    assert decays({"name": "adamw", "weight_decay": 0}) == [("stem", 2, 0.0), ("norms", 4, 0.0), ("head", 1, 0.0)]


def test_a_norm_without_a_signal_stays_and_a_weight_decays() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    members = {"all": [name for name, _ in model.named_parameters()]}
    optimizer = build_optimizer(
        Optimizer.model_validate({"name": "sgd", "lr": 0.5, "weight_decay": 0.2}), model, members
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = dict(model.named_parameters())
    assert torch.allclose(after["0.weight"], before["0.weight"] * 0.9)
    assert all(torch.equal(after[name], before[name]) for name in ("0.bias", "1.weight", "1.bias"))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_default_decays_are_those_of_torch(name: str) -> None:
    parameter = inspect.signature(optimizer_class(name).__init__).parameters.get("weight_decay")
    assert (parameter.default if parameter else 0.0) == DEFAULT_DECAY.get(name, 0.0)


def test_both_halves_of_a_group_get_its_rate() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    members = {"body": ["0.weight", "0.bias"], "head": ["1.weight", "1.bias"]}
    optimizer = build_optimizer(Optimizer.model_validate({"name": "adamw"}), model, members)
    set_learning_rates(optimizer, {"head": 0.25})
    assert [(g["name"], g["lr"]) for g in optimizer.param_groups] == [
        ("body", 0.0),
        ("body", 0.0),
        ("head", 0.25),
        ("head", 0.25),
    ]


def test_a_frozen_group_stays_byte_identical_under_weight_decay_and_momentum() -> None:
    body = nn.Linear(2, 3)
    model = nn.Sequential(body, nn.Linear(3, 2))
    members = {"body": ["0.weight", "0.bias"], "head": ["1.weight", "1.bias"]}
    optimizer = build_optimizer(
        Optimizer.model_validate({"name": "adamw", "lr": 0.1, "weight_decay": 0.5}), model, members
    )
    images = torch.ones(4, 2)
    model(images).sum().backward()
    set_learning_rates(optimizer, {"body": 0.1, "head": 0.1})
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    body.requires_grad_(False)
    before = body.weight.clone()
    for _ in range(3):
        set_learning_rates(optimizer, {"head": 0.1})
        model(images).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert torch.equal(body.weight, before)
    assert [g["lr"] for g in optimizer.param_groups] == [0.0, 0.0, 0.1, 0.1]


VALUES: list[object] = [
    -1, 0, 1, 2, -0.5, 0.5, 0.9, 1.5, 1e-8, math.nan, math.inf, -math.inf, True, False, None, "x", "0.5", [], [0.5],
    [0, 0], [0.5, 0.9], [0.9, 1], [1.5, 0.5], [0.5, 1.2], [1.2, 0.5], [-1, 2], [None, 0.1], [0.1, None], [1, 50],
    [50, 1], [0.9, 0.99, 0.999], ["a", "b"], [True, False], {"a": 1},
]  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_values_that_the_config_takes_are_taken_by_torch(name: str) -> None:
    signature = inspect.signature(optimizer_class(name).__init__).parameters
    for option in OPTIMIZERS[name]:
        default = signature[option].default
        assert not option_faults(name, {option: list(default) if isinstance(default, tuple) else default}), option
        taken = [value for value in VALUES if not option_faults(name, {option: value})]
        assert taken, option
        for value in taken:
            check_options(Optimizer.model_validate({"name": name, option: value}))
        assert not any(isinstance(value, float) and not math.isfinite(value) for value in taken), option


def test_every_class_of_torch_is_offered_or_refused_with_a_reason() -> None:
    classes = {
        name.lower()
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    }
    assert classes <= OPTIMIZERS.keys() | UNFIT.keys()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_later_rate_matters_but_where_it_is_said_not_to(name: str) -> None:
    """Otherwise a curve would be a setting without effect."""
    ends = []
    for later in (0.01, 0.001):
        weight = nn.Parameter(torch.full((2, 2), 0.5))
        optimizer = build_optimizer(
            Optimizer.model_validate({"name": name, "lr": 0.01}), nn.ParameterDict({"w": weight}), {"all": ["w"]}
        )
        for step in range(3):
            set_learning_rates(optimizer, {"all": 0.01 if step == 0 else later})
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        ends.append(weight.detach().clone())
    assert torch.equal(*ends) == (name in FIRST_RATE_ALONE)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "adam", "betas": [0.9, 1.5]}, "optimizer adam: Invalid beta"),
        ({"name": "sgd", "momentum": "much"}, "optimizer sgd: "),
        ({"name": "adamm"}, "unknown optimizer 'adamm'"),
    ],
)
def test_wrong_values_are_one_line(options: dict[str, object], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_options(Optimizer.model_validate(options))
    assert says in caught.value.message
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_listed_options_are_those_of_torch(name: str) -> None:
    theirs = set(inspect.signature(optimizer_class(name).__init__).parameters)
    assert set(OPTIMIZERS[name]) <= theirs
    assert theirs - set(OPTIMIZERS[name]) <= SWITCHES


def test_right_options_pass() -> None:
    check_options(Optimizer.model_validate({"name": "adam", "betas": [0.9, 0.99], "weight_decay": 0.1}))
