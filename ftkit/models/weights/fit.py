"""Whether a state dict fits a network: missing and surplus tensors by layer group.

Missing tensors would stay random, and surplus ones belong to a deeper network: both are errors unless allowed. Heads,
counters and buffers that networks compute themselves don't count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ftkit.errors import RequestError
from ftkit.models.weights.files import first_names
from ftkit.parts.backbone import LayerGroup

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
OTHER_NETWORK = "choose the backbone that these weights were trained with"
_COMPUTED = ("relative_position_index", "relative_coords_table", "attn_mask", "position_ids", "num_batches_tracked")
"""Buffers that some versions of networks save and others compute."""
_SHOWN = 3
"""Number of layer groups in a message."""


@dataclass(frozen=True)
class Fit:
    """Differences between a state dict and a network, apart from a new head.

    Attributes:
        lacking: Tensors of the network that the file doesn't have in this shape, by layer group.
        sizes: Number of tensors in each of these groups.
        surplus: Tensors of the file for layers that the network doesn't have, by layer group.
    """

    lacking: Mapping[str, Sequence[str]]
    sizes: Mapping[str, int]
    surplus: Mapping[str, Sequence[str]]

    def require(self, where: str) -> None:
        """Refuse differences.

        Args:
            where: Name of the weights in messages.

        Raises:
            RequestError: Names groups, counts and first tensors.
        """
        faults = []
        if self.lacking:
            lack = [
                f"{group} lacks {self._count(group)} ({first_names(names, 2)})" for group, names in self.lacking.items()
            ]
            faults.append(_shown(lack))
        if self.surplus:
            more = [
                f"{group} has {len(names)} more tensors ({first_names(names, 2)})"
                for group, names in self.surplus.items()
            ]
            faults.append(f"they have more than the network: {_shown(more)}")
        if faults:
            kept = "load what fits" if self.lacking else "leave these out"
            raise RequestError(
                f"{where} don't fit: {'; '.join(faults)}", f"{OTHER_NETWORK}, or {kept} with --allow-partial"
            )

    def fresh(self) -> str:
        """The tensors that stay random; empty where all are loaded."""
        return ", ".join(
            f"{self._count(group)} of {group} ({first_names(self.lacking[group], 2)})" for group in self.lacking
        )

    def _count(self, group: str) -> str:
        count, size = len(self.lacking[group]), self.sizes[group]
        return f"all {size} tensors" if count == size else f"{count} of {size} tensors"


def compare(
    network: nn.Module,
    groups: Sequence[LayerGroup],
    missing: Sequence[str],
    unexpected: Mapping[str, Tensor],
    free: tuple[str, ...],
) -> Fit:
    """Compare loaded tensors and a network.

    Args:
        groups: The backbone's; without any, the first part of a name stands for its group.
        missing: Tensors of the network that weren't loaded.
        unexpected: Tensors of the file that the network doesn't have.
        free: Prefixes of names that may be missing: the layers of the head.
    """
    own = network.state_dict()

    def in_head(name: str) -> bool:
        return name.startswith(free) or bool(groups and _group(groups, name) == groups[-1].name)

    present = {own[name].data_ptr() for name in own.keys() - set(missing)}
    lacking: dict[str, list[str]] = {}
    for name in missing:
        # Files often have only one of several tensors that share memory.
        if own[name].is_floating_point() and own[name].data_ptr() not in present and not in_head(name):
            lacking.setdefault(_group(groups, name), []).append(name)
    surplus: dict[str, list[str]] = {}
    for name in _strange(network, unexpected, in_head):
        if not in_head(name):
            surplus.setdefault(_group(groups, name), []).append(name)
    sizes = {g: sum(t.is_floating_point() and _group(groups, n) == g for n, t in own.items()) for g in lacking}
    return Fit(lacking, sizes, surplus)


def _strange(network: nn.Module, unexpected: Mapping[str, Tensor], in_head: Callable[[str], bool]) -> list[str]:
    """Tensors of layers or blocks that this network doesn't have.

    A file may have other modules beside the network, such as another head or a projector: those with a name unlike any
    of the network's, or in a place where the network has only its head.
    """
    modules, buffers = dict(network.named_modules()), {name for name, _ in network.named_buffers()}
    numbered = {_numberless(name) for name, _ in network.named_children() if _numberless(name) != name}

    def is_strange(name: str, value: Tensor) -> bool:
        if not value.is_floating_point() or not value.ndim or name in buffers or name.rpartition(".")[2] in _COMPUTED:
            return False
        around = name.rpartition(".")[0]
        while around and around not in modules:
            around = around.rpartition(".")[0]
        if not around:
            return _numberless(name.split(".")[0]) in numbered
        return not all(in_head(f"{around}.{own}") for own, _ in modules[around].named_parameters())

    return [name for name, value in unexpected.items() if is_strange(name, value)]


def _numberless(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _group(groups: Sequence[LayerGroup], name: str) -> str:
    """The layer group of a name by its pattern; a buffer belongs to its module's group."""
    for each in (name, f"{name.rpartition('.')[0]}."):
        found = next((g for g in reversed(groups) if g.owns(each, g.roles[0])), None)
        if found is not None:
            return found.name
    return name.split(".")[0]


def require_values(name: str, value: Tensor, own: Tensor, where: str) -> None:
    """Refuse a tensor whose values the network's dtype can't represent.

    Raises:
        RequestError: Integers or 8-bit values in place of weights, or non-finite values.
    """
    if not own.is_floating_point():
        if not torch.equal(value.double(), value.to(own.dtype).double()):
            raise RequestError(f"{name} in {where} is {_dtype(value)}, not {_dtype(own)}", "get or write them again")
        return
    if value.dtype not in FLOATS:
        raise RequestError(
            f"{name} in {where} is {_dtype(value)}, quantised or truncated, where the network has {_dtype(own)}",
            "save the network's weights as float32, float16 or bfloat16",
        )
    if not bool(value.to(own.dtype).isfinite().all()):
        raise RequestError(f"{name} in {where} has values that are not finite", "get or write them again")


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shown(parts: Iterable[str]) -> str:
    parts = list(parts)
    more = len(parts) - _SHOWN
    return ", ".join(parts[:_SHOWN]) + (f", and {more} more layer group{'s' * (more > 1)}" if more > 0 else "")
