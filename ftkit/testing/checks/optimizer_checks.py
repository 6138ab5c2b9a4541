"""The contract of an optimizer: it minimises, leaves frozen parameters alone, and continues exactly from its state."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from ftkit.api import Optimizer
from ftkit.testing.contract import require, require_frozen_dataclass, require_picklable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SHAPES = ((4, 3), (3,), (2, 3, 3, 3))
RATES = (1e-3, 1e-2, 1e-1, 1.0)
"""Learning rates that are tried; the loss must fall with one of them."""
STEPS = 30
STEPS_BEFORE, STEPS_AFTER = 5, 3
"""Steps before and after the state is saved and loaded."""


def check_optimizer(optimizer: Optimizer) -> None:
    """Check an optimizer instance on a quadratic function of a few small parameters.

    Raises:
        ContractError: The class isn't a frozen dataclass, or its instance can't be pickled; the loss doesn't fall; a
            parameter without a gradient changes; the state has other values than tensors and numbers; or the steps
            after loading a saved state differ from those without.
    """
    require_frozen_dataclass(optimizer)
    require_picklable(optimizer)
    falls = any(_fall(optimizer, rate) for rate in RATES)
    require(falls, f"the loss doesn't fall in {STEPS} steps, with learning rates from {RATES[0]:g} to {RATES[-1]:g}")
    _check_frozen(optimizer)
    _check_resume(optimizer)
    if optimizer.uses_curve:
        _check_rate(optimizer)


def _fall(optimizer: Optimizer, rate: float) -> bool:
    parameters, built = _make(optimizer, rate)
    first = _step(built, parameters)
    for _ in range(STEPS - 1):
        _step(built, parameters)
    return bool(_loss(parameters) < first)


def _check_frozen(optimizer: Optimizer) -> None:
    """A frozen parameter has no gradient, and must keep its bytes, whatever the weight decay."""
    import torch

    parameters, built = _make(optimizer, RATES[1])
    before = parameters[0].detach().clone()
    for _ in range(STEPS_BEFORE):
        _step(built, parameters[1:])
    require(torch.equal(parameters[0], before), "it changes a parameter without a gradient", "skip those")


def _check_rate(optimizer: Optimizer) -> None:
    """A learning rate of 0, set in the parameter groups, stops all changes."""
    import torch

    parameters, built = _make(optimizer, RATES[1])
    for group in built.param_groups:
        group["lr"] = 0.0
    before = [parameter.detach().clone() for parameter in parameters]
    _step(built, parameters)
    stays = all(map(torch.equal, parameters, before))
    require(stays, "it doesn't use the learning rate of its parameter groups", "set uses_curve = False if intended")


def _check_resume(optimizer: Optimizer) -> None:
    import torch

    parameters, built = _make(optimizer, RATES[1])
    for _ in range(STEPS_BEFORE):
        _step(built, parameters)
    state = deepcopy(built.state_dict())
    _check_state(state)
    others, resumed = _make(optimizer, RATES[1])
    with torch.no_grad():
        for other, parameter in zip(others, parameters, strict=True):
            other.copy_(parameter)
    resumed.load_state_dict(state)
    for _ in range(STEPS_AFTER):
        _step(built, parameters)
        _step(resumed, others)
    same = all(map(torch.equal, parameters, others))
    require(same, "steps after loading its state differ", "keep all state in `torch.optim.Optimizer.state`")


def _check_state(state: dict[str, Any]) -> None:
    import torch

    for values in state["state"].values():
        for name, value in values.items():
            known = isinstance(value, torch.Tensor | bool | int | float) or value is None
            require(known, f"its state {name!r} is {type(value).__name__}, not a tensor or a number")


def _make(optimizer: Optimizer, rate: float) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    """Fresh parameters in two groups; the second has no weight decay if the optimizer has one."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    groups: list[dict[str, Any]] = [
        {"params": parameters[:1], "name": "first"},
        {"params": parameters[1:], "name": "second"},
    ]
    built = optimizer.build(groups, rate)
    require(isinstance(built, torch.optim.Optimizer), f"build() returned {type(built).__name__}, not a torch optimizer")
    return parameters, built


def _step(built: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> Tensor:
    import torch

    built.zero_grad()
    loss = _loss(parameters)
    torch.autograd.backward(loss)
    built.step()
    return loss.detach()


def _loss(parameters: Sequence[nn.Parameter]) -> Tensor:
    import torch

    return torch.stack([(parameter - 0.5).square().sum() for parameter in parameters]).sum()
