"""The optimizer, built once with every layer group in it, and the learning rates of each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ftkit.errors import RequestError, unknown
from ftkit.optim.optimizer_names import OPTIMIZERS
from ftkit.optim.parameter_roles import roles

if TYPE_CHECKING:
    from ftkit.config.schema import Optimizer

FUSED = ("adam", "adamw")
"""Of those that can be; SGD is no quicker on CPUs."""


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """The class of torch.optim whose name is `name` in lower case."""
    classes: dict[str, type[torch.optim.Optimizer]] = {
        key.lower(): value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and key.lower() in OPTIMIZERS
    }
    if name not in classes:
        raise unknown("optimizer", name, classes, "optimizer.name")
    return classes[name]


def check_options(optimizer: Optimizer) -> None:
    """Refuse values of options that the optimizer's class doesn't accept.

    Raises:
        RequestError: Says what the class says.
    """
    _make(optimizer, [{"params": [nn.Parameter(torch.zeros(1))]}])


def build_optimizer(
    optimizer: Optimizer,
    model: nn.Module,
    members: Mapping[str, Sequence[str]],
    decay_all: bool = False,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """Parameter groups for all layer groups, in order, trainable or not; phases never rebuild it.

    A layer group is one of them, or with weight decay two of the same name: the second has its biases and
    normalisation parameters, which don't decay. Pulling those to 0 doesn't simplify a network, and pulls
    pretrained ones away from where they belong.

    Args:
        members: Parameter names by layer group, from the input to the head.
        decay_all: Let weight decay act on all parameters alike.
        fused: Update all weights in one pass where the optimizer is quicker so and the config doesn't say.
    """
    parameters = dict(model.named_parameters())
    spared = _spared(model) if optimizer.decay and not decay_all else frozenset()
    groups: list[dict[str, Any]] = []
    for group, names in members.items():
        groups.append({"params": [parameters[n] for n in names if n not in spared], "name": group})
        if without := [parameters[n] for n in names if n in spared]:
            groups.append({"params": without, "name": group, "weight_decay": 0.0})
    return _make(optimizer, groups, fused and optimizer.name in FUSED)


def _spared(model: nn.Module) -> frozenset[str]:
    return frozenset(name for name, role in roles(model).items() if role != "weight")


def set_learning_rates(optimizer: torch.optim.Optimizer, rates: Mapping[str, float]) -> None:
    """Set each group's rate; a frozen one's is 0 (and its gradients are None, so nothing moves it)."""
    for group in optimizer.param_groups:
        group["lr"] = rates.get(group["name"], 0.0)


def _make(optimizer: Optimizer, groups: list[dict[str, Any]], fused: bool = False) -> torch.optim.Optimizer:
    cls = optimizer_class(optimizer.name)
    options: dict[str, Any] = {k: _pair(v) if isinstance(v, list) else v for k, v in optimizer.options.items()}
    if fused:
        options.setdefault("fused", True)
    try:
        return cls(groups, **{"lr": optimizer.lr, **options})
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(
            f"optimizer {optimizer.name}: {reason}", f"its options: {', '.join(OPTIMIZERS[optimizer.name])}"
        ) from None


def _pair(values: list[Any]) -> tuple[Any, ...]:
    """Betas and the like as torch takes them; it refuses 0 beside 0.9."""
    return tuple(float(value) if isinstance(value, int) and not isinstance(value, bool) else value for value in values)
