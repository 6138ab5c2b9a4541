"""The optimizer holds every group from the start, and refuses options that it would not use."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from ftkit.config.choices import OPTIMIZERS
from ftkit.config.schema import Optimizer
from ftkit.engine.optim import build_optimizer, check_options, optimizer_class, set_learning_rates
from ftkit.errors import RequestError

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
    assert [g["lr"] for g in optimizer.param_groups] == [0.0, 0.1]


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
