"""Building the optimizer with all layer groups, and setting learning rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from ftkit.errors import RequestError
from ftkit.optim.parameter_roles import roles
from ftkit.parts.optimizer import Optimizer
from ftkit.plugin_errors import plugin_boundary, plugin_of


def build_optimizer(
    optimizer: Optimizer,
    lr: float,
    model: nn.Module,
    members: Mapping[str, Sequence[str]],
    decay_all: bool = False,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """An optimizer with parameter groups for all layer groups, in order, frozen or not; phases never rebuild it.

    With weight decay, a layer group has two parameter groups of the same name: the second one has its biases and
    normalization parameters, without weight decay. Decay towards 0 doesn't regularize those, and pretrained values may
    be far from 0.

    Args:
        members: Parameter names by layer group, from the input to the head.
        decay_all: Apply weight decay to all parameters.
        fused: Use the fused implementation where it is faster and the options don't say otherwise.

    Raises:
        RequestError: torch refuses the options, or a plugin's optimizer isn't one of torch's.
        PluginError: A plugin's optimizer failed.
    """
    parameters = dict(model.named_parameters())
    spared = _spared(model) if optimizer.decay and not decay_all else frozenset()
    groups: list[dict[str, Any]] = []
    for group, names in members.items():
        groups.append({"params": [parameters[n] for n in names if n not in spared], "name": group})
        if without := [parameters[n] for n in names if n in spared]:
            groups.append({"params": without, "name": group, "weight_decay": 0.0})
    return _built(optimizer, groups, lr, fused)


def _built(optimizer: Optimizer, groups: list[dict[str, Any]], lr: float, fused: bool) -> torch.optim.Optimizer:
    name = type(optimizer).__name__
    with plugin_boundary(f"build of optimizer {name}", optimizer):
        try:
            built = optimizer.build(groups, lr, fused)
        except (TypeError, ValueError) as error:
            if plugin_of(optimizer) is not None:
                raise
            options = ", ".join(field.name for field in fields(optimizer))  # type: ignore[arg-type]
            raise RequestError(f"optimizer {name}: {str(error).splitlines()[0]}", f"its options: {options}") from None
    if not isinstance(built, torch.optim.Optimizer) or [g.get("name") for g in built.param_groups] != [
        g["name"] for g in groups
    ]:
        raise RequestError(
            f"build of optimizer {name} returned {built!r}",
            "return a torch.optim.Optimizer over the groups as they were given",
        )
    return built


def _spared(model: nn.Module) -> frozenset[str]:
    return frozenset(name for name, role in roles(model).items() if role != "weight")


def set_learning_rates(optimizer: torch.optim.Optimizer, rates: Mapping[str, float]) -> None:
    """Set the rate of each group; 0 for frozen ones, whose gradients are None."""
    for group in optimizer.param_groups:
        group["lr"] = rates.get(group["name"], 0.0)
