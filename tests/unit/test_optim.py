"""The optimizer holds every group from the start, and refuses options that it would not use."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from ftkit.api import Optimizer
from ftkit.config.plugin_options import make, option_fields
from ftkit.errors import RequestError
from ftkit.optim.optimizers import build_optimizer, set_learning_rates
from ftkit.optim.parameter_roles import roles
from ftkit.parts.optimizer import UNSUPPORTED
from tests.models import REGISTRY, parts

SWITCHES = {"self", "params", "lr", "foreach", "maximize", "capturable", "differentiable"}
"""Arguments that don't change what is learnt, or turn learning round."""
OPTIMIZERS = parts("optimizers")


def chosen(name: str, **options: Any) -> Optimizer:
    """The optimizer that a config names."""
    found: Optimizer = make(OPTIMIZERS[name], options, "optimizer", {}, REGISTRY)
    return found


def torch_class(name: str) -> type[torch.optim.Optimizer]:
    found: type[torch.optim.Optimizer] = getattr(torch.optim, OPTIMIZERS[name].__name__)
    return found


def test_groups_are_in_order_and_named() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    members = {"body": ["0.weight", "0.bias"], "rest": [], "head": ["1.weight", "1.bias"]}
    optimizer = build_optimizer(chosen("sgd", momentum=0.9), 0.1, model, members)
    assert [(g["name"], len(g["params"]), g["momentum"]) for g in optimizer.param_groups] == [
        ("body", 2, 0.9),
        ("rest", 0, 0.9),
        ("head", 2, 0.9),
    ]


def decays(name: str, decay_all: bool = False, **options: Any) -> list[tuple[str, int, float]]:
    """Name, number of parameters and weight decay of each parameter group."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.LayerNorm(4), nn.Linear(4, 2, bias=False))
    members = {"stem": ["0.weight", "0.bias"], "norms": ["1.weight", "1.bias", "2.weight", "2.bias"]}
    members["head"] = ["3.weight"]
    optimizer = build_optimizer(chosen(name, **options), 0.1, model, members, decay_all)
    return [(g["name"], len(g["params"]), g.get("weight_decay", 0.0)) for g in optimizer.param_groups]


def test_weight_decay_spares_biases_and_norms() -> None:
    apart = [("stem", 1, 0.3), ("stem", 1, 0.0), ("norms", 0, 0.3), ("norms", 4, 0.0), ("head", 1, 0.3)]
    assert decays("sgd", weight_decay=0.3) == apart
    assert decays("adamw") == [(name, count, decay and 0.01) for name, count, decay in apart]


def test_decay_of_all_or_of_nothing_needs_one_group_each() -> None:
    assert decays("adamw", decay_all=True) == [("stem", 2, 0.01), ("norms", 4, 0.01), ("head", 1, 0.01)]
    for name in ("sgd", "rprop"):
        assert decays(name) == [("stem", 2, 0.0), ("norms", 4, 0.0), ("head", 1, 0.0)]
    assert decays("adamw", weight_decay=0) == [("stem", 2, 0.0), ("norms", 4, 0.0), ("head", 1, 0.0)]


def test_a_norm_without_a_signal_stays_and_a_weight_decays() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    members = {"all": [name for name, _ in model.named_parameters()]}
    optimizer = build_optimizer(chosen("sgd", weight_decay=0.2), 0.5, model, members)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = dict(model.named_parameters())
    assert torch.allclose(after["0.weight"], before["0.weight"] * 0.9)
    assert all(torch.equal(after[name], before[name]) for name in ("0.bias", "1.weight", "1.bias"))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_options_and_defaults_are_those_of_torch(name: str) -> None:
    theirs = dict(inspect.signature(torch_class(name).__init__).parameters)
    ours = {option: field.default for option, field in option_fields(OPTIMIZERS[name]).items()}
    assert ours == {option: theirs[option].default for option in ours}
    assert theirs.keys() - ours.keys() <= SWITCHES


def test_both_halves_of_a_group_get_its_rate() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    members = {"body": ["0.weight", "0.bias"], "head": ["1.weight", "1.bias"]}
    optimizer = build_optimizer(chosen("adamw"), 0.1, model, members)
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
    optimizer = build_optimizer(chosen("adamw", weight_decay=0.5), 0.1, model, members)
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
    for option in option_fields(OPTIMIZERS[name]):
        needed = {"momentum": 0.5} if option == "nesterov" else {}
        taken = []
        for value in VALUES:
            try:
                optimizer = chosen(name, **needed, **{option: value})
            except RequestError:
                continue
            taken.append(getattr(optimizer, option))
            build_optimizer(optimizer, 0.1, nn.ParameterDict({"w": nn.Parameter(torch.zeros(1))}), {"all": ["w"]})
        assert taken, option
        assert not any(isinstance(value, float) and not math.isfinite(value) for value in taken), option


def test_every_class_of_torch_is_offered_or_refused_with_a_reason() -> None:
    classes = {
        name.lower()
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    }
    assert classes <= OPTIMIZERS.keys() | UNSUPPORTED.keys()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_later_rate_matters_except_where_documented(name: str) -> None:
    """Otherwise a curve would be a setting without effect."""
    ends = []
    for later in (0.01, 0.001):
        weight = nn.Parameter(torch.full((2, 2), 0.5))
        optimizer = build_optimizer(chosen(name), 0.01, nn.ParameterDict({"w": weight}), {"all": ["w"]})
        for step in range(3):
            set_learning_rates(optimizer, {"all": 0.01 if step == 0 else later})
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        ends.append(weight.detach().clone())
    assert torch.equal(*ends) == (not OPTIMIZERS[name].uses_curve)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("adam", {"betas": [0.9, 1.5]}, "optimizer.betas is [0.9, 1.5] (give two numbers from 0 to below 1, such as"),
        ("sgd", {"momentum": "much"}, "optimizer.momentum: must be a number, not 'much'"),
    ],
)
def test_wrong_values_are_one_line(name: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        chosen(name, **options)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_roles_distinguish_norms_and_biases() -> None:
    found = roles(models.VisionTransformer(32, 16, 1, 2, 16, 32, num_classes=4))
    assert found["conv_proj.bias"] == "bias"
    assert found["class_token"] == "weight"
    assert found["encoder.layers.encoder_layer_0.ln_1.weight"] == "norm-weight"
    assert found["encoder.layers.encoder_layer_0.ln_1.bias"] == "norm-bias"
    assert found["encoder.layers.encoder_layer_0.self_attention.in_proj_weight"] == "weight"
    assert found["encoder.layers.encoder_layer_0.self_attention.in_proj_bias"] == "bias"
    norms = nn.ModuleDict({"b": nn.BatchNorm1d(2), "g": nn.GroupNorm(1, 2), "r": nn.RMSNorm(2)})
    assert set(roles(norms).values()) == {"norm-weight", "norm-bias"}
