"""Layer groups applied to a network: which parameters they own, which train, and which modules stay in eval mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ftkit.errors import RequestError, unknown
from ftkit.optim.parameter_roles import roles
from ftkit.parts.backbone import LayerGroup, group_of


def assign_parameters(model: nn.Module, groups: Sequence[LayerGroup]) -> dict[str, list[str]]:
    """Names of parameters by layer group, in the order of `groups`; a group may own none.

    Raises:
        RequestError: No group owns a parameter.
    """
    owned: dict[str, list[str]] = {group.name: [] for group in groups}
    for name, role in roles(model).items():
        group = group_of(groups, name, role)
        if group is None:
            raise RequestError(
                f"parameter {name!r} is in none of the layer groups {', '.join(owned)}",
                "a bug of the backbone or strategy that defines the groups: together they must own every parameter",
            )
        owned[group.name].append(name)
    return owned


@dataclass(frozen=True)
class Modes:
    """Which modules are in train mode in a phase; applied again after each evaluation."""

    training: tuple[nn.Module, ...]
    evaluating: tuple[nn.Module, ...]

    def apply(self) -> None:
        """Put each module into its mode.

        The `train` method is called where a module overrides it: some cache tensors computed from their weights in
        eval mode, and would evaluate with those of an earlier epoch. Its effect on other modules' modes is undone.
        """
        for mode, modules in ((True, self.training), (False, self.evaluating)):
            for module in modules:
                if type(module).train is not nn.Module.train:
                    module.train(mode)
        for module in self.training:
            module.training = True
        for module in self.evaluating:
            module.training = False


@contextmanager
def preserve_modes(network: nn.Module) -> Iterator[None]:
    """Restores which modules are in train mode, and lets all parameters require gradients again."""
    before = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
        network.requires_grad_(True)


def modes_of(network: nn.Module) -> Modes:
    """The current modes of a network's modules."""
    modules = list(network.modules())
    return Modes(tuple(m for m in modules if m.training), tuple(m for m in modules if not m.training))


def set_trainable(model: nn.Module, groups: Sequence[LayerGroup], trainable: Set[str], train_bn: bool = False) -> Modes:
    """Make the groups in `trainable` train and freeze all others, gradients and modes alike.

    Gradients of frozen parameters are removed, so no optimizer changes them any more.

    Args:
        model: The network itself, not a distributed wrapper around it.
        groups: Layer groups that together own every parameter.
        trainable: Names of groups.
        train_bn: Keep the BatchNorm modules of frozen groups in train mode.

    Returns:
        The modes, applied already.
    """
    for name in trainable - {group.name for group in groups}:
        raise unknown("layer group", name, [group.name for group in groups])
    parameters = dict(model.named_parameters())
    for group, names in assign_parameters(model, groups).items():
        for name in names:
            parameters[name].requires_grad_(group in trainable)
            if group not in trainable:
                parameters[name].grad = None
    modes = _modes(model, groups, trainable, train_bn)
    modes.apply()
    return modes


def _modes(model: nn.Module, groups: Sequence[LayerGroup], trainable: Set[str], train_bn: bool) -> Modes:
    training: list[nn.Module] = []
    evaluating: list[nn.Module] = []
    for name, module in model.named_modules():
        trains = _trains(name, module, groups, trainable) or (train_bn and isinstance(module, _BatchNorm))
        (training if trains else evaluating).append(module)
    return Modes(tuple(training), tuple(evaluating))


def _trains(name: str, module: nn.Module, groups: Sequence[LayerGroup], trainable: Set[str]) -> bool:
    """Whether a module belongs in train mode, given which parameters require a gradient.

    The whole network does if anything in it trains: some return auxiliary logits only then. A module with parameters of
    its own does if all of them train, a container if anything in it does, and a module without parameters, such as
    dropout, if its group trains.
    """
    own = [p.requires_grad for p in module.parameters(recurse=False)]
    if own and name:
        return all(own)
    below = [p.requires_grad for p in module.parameters()]
    if below:
        return any(below)
    group = group_of(groups, f"{name}.")
    return group is not None and group.name in trainable


def frozen_names(network: nn.Module) -> frozenset[str]:
    """Names of frozen parameters, and of buffers of modules without trainable parameters."""
    found: set[str] = set()
    for path, module in network.named_modules():
        own = dict(module.named_parameters(path, recurse=False))
        still = [name for name, parameter in own.items() if not parameter.requires_grad]
        if len(still) == len(own):
            still += [name for name, _ in module.named_buffers(path, recurse=False)]
        found.update(still)
    return frozenset(found) if any(name in found for name, _ in network.named_parameters()) else frozenset()
