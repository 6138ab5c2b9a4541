"""Builds the network of a plan, loads its weights, and assigns its parameters to layer groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import dropwhile
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import nn

from ftkit.data.loading.seeds import derive
from ftkit.distributed.processes import run_on_main
from ftkit.models.compute.devices import choose_device, join_processes, make_accelerator
from ftkit.models.compute.precision import NetworkTraits, Precision, choose_precision, traits_of
from ftkit.models.model_size import build_on_meta
from ftkit.models.parameter_groups import assign_parameters
from ftkit.models.regularisation import set_regularisation
from ftkit.models.surgery import build_network, refit
from ftkit.models.weights.files import Contents, read_weights
from ftkit.models.weights.head_classes import head_class_order
from ftkit.models.weights.pretrained import LoadReport, Target, load_into
from ftkit.plugin_errors import PluginError, plugin_boundary

if TYPE_CHECKING:
    from ftkit.planning.run_plan import Plan


@dataclass(frozen=True)
class BuiltModel:
    """A network that is ready to train.

    Attributes:
        members: Parameter names by layer group, from the input to the head.
        report: What was loaded of the pretrained weights; None without pretrained weights.
        added: Names of the parameters that the strategy has added.
    """

    network: nn.Module
    members: Mapping[str, Sequence[str]]
    report: LoadReport | None
    added: frozenset[str] = frozenset()


def plan_accelerator(plan: Plan, saved: Precision | None = None) -> tuple[Accelerator, Precision]:
    """An accelerator for a plan's device, and the precision of the run's passes, which the main process chooses.

    Args:
        saved: The precision of the run's checkpoint, in place of the plan's.

    Raises:
        RequestError: As `make_accelerator` and `choose_precision`.
    """
    config = plan.config

    def choose() -> dict[str, str]:
        return asdict(saved or choose_precision(config.precision, choose_device(config.device), lambda: _traits(plan)))

    join_processes(config)
    precision = Precision(**run_on_main(choose))
    return make_accelerator(config, precision.training), precision


def _traits(plan: Plan) -> NetworkTraits:
    """The traits of a plan's network, where gradients pass from the first layer group that ever trains on."""
    network = _adapted(plan, _on_meta(plan))
    members = assign_parameters(network, plan.schedule.groups)
    trained = {group for phase in plan.schedule.phases for group in phase.trainable}
    following = dropwhile(lambda group: group not in trained, members)
    return traits_of(network, [name for group in following for name in members[group]])


def build_model(plan: Plan, load: bool = True) -> BuiltModel:
    """Build the network with fresh weights drawn from the plan's seed, then load the pretrained ones.

    Args:
        load: Whether to load the pretrained weights; not needed before a checkpoint is loaded.

    Raises:
        FtkitError: The weights can't be downloaded or read, or don't fit.
    """
    torch.manual_seed(derive(plan.config.seed, "init"))
    network = build_network(plan.backbone, plan.num_classes, plan.head, plan.preprocessing.channels)
    contents = _contents(plan) if load else None
    report = None
    if contents is not None:
        source = str(plan.weights.path or plan.weights.name)
        fitted = partial(refit, plan.backbone, network, plan.preprocessing.channels, source)
        report = load_into(network, contents, _target(plan), source, fitted)
    own = {id(parameter) for parameter in network.parameters()}
    network = _adapted(plan, network)
    added = frozenset(name for name, parameter in network.named_parameters() if id(parameter) not in own)
    return BuiltModel(network, assign_parameters(network, plan.schedule.groups), report, added)


def build_architecture(plan: Plan) -> nn.Module:
    """The network of a plan, adapted by the strategy, with arbitrary weights."""
    network = build_network(plan.backbone, plan.num_classes, plan.head, plan.preprocessing.channels)
    return _adapted(plan, network)


def with_parameter_counts(plan: Plan) -> Plan:
    """The plan with the number of parameters in each group, counted on the meta device where they aren't known."""
    if plan.group_parameters is not None:
        return plan
    network = _adapted(plan, _on_meta(plan))
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    members = assign_parameters(network, plan.schedule.groups)
    return replace(plan, group_parameters={g: sum(sizes[n] for n in names) for g, names in members.items()})


def check_regularisation(plan: Plan) -> None:
    """Refuse rates of stochastic depth or dropout for a network without such layers.

    Raises:
        RequestError: Names the backbone.
    """
    config = plan.config
    if config.drop_path is not None or config.backbone_dropout is not None:
        set_regularisation(_on_meta(plan), plan.backbone, config.drop_path, config.backbone_dropout)


def _adapted(plan: Plan, network: nn.Module) -> nn.Module:
    """The network after the strategy's `adapt`.

    Raises:
        PluginError: The strategy fails, or returns no network.
    """
    where = f"adapt of strategy {plan.config.strategy.name!r}"
    with plugin_boundary(where, plan.strategy):
        adapted = plan.strategy.adapt(network, plan.backbone)
    if not isinstance(adapted, nn.Module):
        raise PluginError(f"{where} returned {type(adapted).__name__}, not a network", "return the module")
    return adapted


def _on_meta(plan: Plan) -> nn.Module:
    return build_on_meta(plan.backbone, plan.num_classes, plan.head, plan.preprocessing.channels)


def _contents(plan: Plan) -> Contents | None:
    weights = plan.weights
    if weights.pretrained is not None:
        with plugin_boundary(f"load of weights {weights.pretrained.name!r}", weights.pretrained.load):
            return Contents(weights.pretrained.load())
    return None if weights.path is None else read_weights(weights.path, plan.config.weights_key, weights.sha256)


def _target(plan: Plan) -> Target:
    config = plan.config
    order = head_class_order(plan.weights, plan.splits.classes) if config.keep_head else None
    return Target(plan.backbone.head, plan.backbone.groups, config.keep_head, config.allow_partial, order)
