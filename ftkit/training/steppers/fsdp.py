"""Weights, gradients and optimizer state sharded over the processes (FSDP2), and gathered for models and checkpoints.

For networks that are too large for one device. A run is the same as with whole copies but for the order in which
gradients are added; models and checkpoints on disk are whole, as those of any other run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ftkit.errors import FtkitError, RequestError, one_line
from ftkit.models.build import build_architecture
from ftkit.models.compute.devices import Compute
from ftkit.models.compute.memory_format import preserve_state
from ftkit.models.weights.pretrained import restore_weights
from ftkit.planning.run_plan import Plan

LEAST, MOST = 0.005, 0.1
"""Parts of a network's parameters: smaller modules are gathered with the rest, larger ones are divided if possible."""


@dataclass(frozen=True)
class Shards:
    """The modules whose parameters are gathered together for their forward pass.

    Attributes:
        root: The network, with the parameters of no unit.
    """

    root: FSDPModule
    units: tuple[FSDPModule, ...]

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Keep all parameters gathered meanwhile, for evaluation with another number of batches in each process.

        All processes must enter and leave it together.
        """
        modules = (self.root, *self.units)
        for unit in self.units:
            unit.set_reshard_after_forward(False, recurse=False)
        for module in modules:
            module.unshard()
        try:
            yield
        finally:
            for module in modules:
                module.reshard()
            for unit in self.units:
                unit.set_reshard_after_forward(True, recurse=False)


def check_can_shard(flag: str, does: str, processes: int, precision: str, compiles: bool) -> None:
    """Refuse settings that sharding can't be combined with.

    Args:
        flag: Named in messages.
        does: What the flag does, such as "shards the network".

    Raises:
        RequestError: There is one process, gradients would be scaled, or the network would be compiled.
    """
    if processes == 1:
        raise RequestError(
            f"{flag} {does} over processes, and there is one", f"give --num-processes N, or drop {flag.split()[0]}"
        )
    if compiles:
        raise RequestError(f"{flag} can't be combined with --compile", "drop one of them")
    if precision == "fp16":
        raise RequestError(
            f"{flag} can't be combined with fp16, whose gradients are scaled", "give --precision bf16 or fp32"
        )


def shard_network(
    network: nn.Module, optimizer: torch.optim.Optimizer, members: Mapping[str, Sequence[str]], device: torch.device
) -> Shards:
    """Keep only this process's shard of each parameter and of its optimizer state.

    Args:
        network: Whole, and the same in all processes.
        members: Parameter names by layer group. Parameters that are gathered together are of one group.
    """
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    owners = {name: group for group, some in members.items() for name in some}
    found = list(_units(network, owners, sum(parameter.numel() for parameter in network.parameters())))
    for module in (*found, network):
        fully_shard(module, mesh=mesh)
    shards = {name: cast(DTensor, parameter) for name, parameter in network.named_parameters()}
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    state: dict[Tensor, dict[str, Any]] = {}
    for group in inner.param_groups:
        whole: list[Tensor] = group["params"]
        group["params"] = [shards[names[id(parameter)]] for parameter in whole]
        for parameter, shard in zip(whole, group["params"], strict=True):
            if parameter in inner.state:
                state[shard] = {key: _shard(value, shard) for key, value in inner.state[parameter].items()}
    inner.state.clear()
    inner.state.update(state)
    return Shards(cast(FSDPModule, network), tuple(cast(FSDPModule, module) for module in found))


def require_computing(shards: Shards, images: Tensor, compute: Compute) -> None:
    """Try a forward pass of a sharded network on two images.

    Raises:
        FtkitError: It computes with weights of modules that it doesn't call, so they aren't gathered.
    """
    network = cast(nn.Module, shards.root)
    try:
        with preserve_state(network), torch.no_grad(), compute.autocast():
            network(images)
    except RuntimeError as error:
        raise FtkitError(f"this network can't be sharded: {one_line(str(error))}", "drop --fsdp") from error
    finally:
        shards.root.reshard()


def gathered(tensors: Mapping[str, Any], keep: bool) -> dict[str, Any]:
    """The tensors, each sharded one gathered on the CPU; all processes must call this.

    Args:
        keep: Whether this process needs them; else it gets nothing.
    """
    found: dict[str, Any] = {}
    for name, value in tensors.items():
        # One after another, since a device may not have memory for all.
        whole = value.full_tensor().detach().cpu() if isinstance(value, DTensor) else value
        if keep:
            found[name] = whole
    return found


def network_to_save(network: nn.Module, shards: Shards | None, plan: Plan, is_main: bool) -> nn.Module:
    """The network; where it is sharded, in the main process a whole copy on the CPU. All processes must call this."""
    if shards is None:
        return network
    state = gathered(network.state_dict(), is_main)
    if not is_main:
        return network
    copy = build_architecture(plan)
    restore_weights(copy, state)
    return copy


def own(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _shard(value: Any, shard: DTensor) -> Any:
    if not isinstance(value, Tensor) or value.shape != shard.shape:
        return value
    # All processes have the same values, so nothing is sent.
    return distribute_tensor(value.contiguous(), shard.device_mesh, shard.placements, src_data_rank=None)


def _units(
    module: nn.Module, owners: Mapping[str, str], whole: int, path: str = "", called: bool = True
) -> Iterator[nn.Module]:
    """Modules of a suitable size whose parameters are of one layer group.

    Args:
        whole: Number of parameters of the network.
        called: Whether the module certainly calls its children, as containers do. Others may compute with a child's
            weights themselves.
    """
    for name, child in module.named_children():
        sizes = {each: parameter.numel() for each, parameter in child.named_parameters(f"{path}{name}")}
        size = sum(sizes.values())
        if size < LEAST * whole:
            continue
        contains = isinstance(child, nn.ModuleList | nn.ModuleDict | nn.Sequential)
        inside = list(_units(child, owners, whole, f"{path}{name}.", contains))
        uniform = len({owners[each] for each in sizes}) == 1
        callable_ = not isinstance(child, nn.ModuleList | nn.ModuleDict) and (called or bool(list(child.children())))
        covered = sum(parameter.numel() for unit in inside for parameter in unit.parameters())
        if uniform and callable_ and (size <= MOST * whole or 2 * covered < size):
            yield child
        else:
            yield from inside
