"""Whether a state dict fits a network: what of each layer group it lacks, and what it has that the network hasn't.

The one place that decides it. What is fresh in a network that should be pretrained, or was meant for a deeper one, is
an error unless it was asked for; heads, counters and what networks compute anew are not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ftkit.errors import RequestError
from ftkit.models.weights.files import few
from ftkit.parts.backbone import LayerGroup

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
OTHER_NETWORK = "choose the backbone that these weights were trained with"
_COMPUTED = ("relative_position_index", "relative_coords_table", "attn_mask", "position_ids", "num_batches_tracked")
"""Tensors that networks of some versions save, others compute for themselves."""
_SHOWN = 3
"""Layer groups that a message names."""


@dataclass(frozen=True)
class Fit:
    """Where a state dict and a network differ, beside a head that is drawn anew.

    Attributes:
        lacking: By layer group, names of tensors of the network that the file hasn't got in this shape.
        sizes: How many tensors each of these groups has.
        surplus: By layer group, names in the file that belong to layers which the network hasn't got.
    """

    lacking: Mapping[str, Sequence[str]]
    sizes: Mapping[str, int]
    surplus: Mapping[str, Sequence[str]]

    def require(self, where: str) -> None:
        """Refuse what doesn't fit.

        Args:
            where: What messages call the weights.

        Raises:
            RequestError: Names groups, counts and first tensors.
        """
        faults = []
        if self.lacking:
            lack = [f"{group} lacks {self._count(group)} ({few(names, 2)})" for group, names in self.lacking.items()]
            faults.append(_shown(lack))
        if self.surplus:
            more = [f"{group} has {len(names)} more tensors ({few(names, 2)})" for group, names in self.surplus.items()]
            faults.append(f"they hold more than the network: {_shown(more)}")
        if faults:
            kept = "start from what fits" if self.lacking else "leave these out"
            raise RequestError(
                f"{where} don't fit: {'; '.join(faults)}", f"{OTHER_NETWORK}, or {kept} with --allow-partial"
            )

    def fresh(self) -> str:
        """What stays as it was drawn, exactly; empty where all is loaded."""
        return ", ".join(f"{self._count(group)} of {group} ({few(self.lacking[group], 2)})" for group in self.lacking)

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
    """Say where what was loaded and a network differ.

    Args:
        groups: The backbone's; where there are none, the first module in a name stands for its group.
        missing: Tensors of the network that weren't loaded.
        unexpected: Tensors that were to be loaded and have no place.
        free: Beginnings of names that may be missing: the layers of a head.
    """
    own = network.state_dict()

    def in_head(name: str) -> bool:
        return name.startswith(free) or bool(groups and _group(groups, name) == groups[-1].name)

    present = {own[name].data_ptr() for name in own.keys() - set(missing)}
    lacking: dict[str, list[str]] = {}
    for name in missing:
        # Of tensors that share their memory, files often keep one.
        if own[name].is_floating_point() and own[name].data_ptr() not in present and not in_head(name):
            lacking.setdefault(_group(groups, name), []).append(name)
    surplus: dict[str, list[str]] = {}
    for name in _strange(network, unexpected, in_head):
        if not in_head(name):
            surplus.setdefault(_group(groups, name), []).append(name)
    sizes = {g: sum(t.is_floating_point() and _group(groups, n) == g for n, t in own.items()) for g in lacking}
    return Fit(lacking, sizes, surplus)


def _strange(network: nn.Module, unexpected: Mapping[str, Tensor], in_head: Callable[[str], bool]) -> list[str]:
    """Tensors that make another network: of a layer or a block that this one hasn't got.

    A file may well hold something beside the network, such as another head or a projector: what is under a name that
    the network knows nothing like, or where the network has its head alone.
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
    """The layer group that a name is in by its pattern; a buffer is in its module's."""
    for each in (name, f"{name.rpartition('.')[0]}."):
        found = next((g for g in reversed(groups) if g.owns(each, g.roles[0])), None)
        if found is not None:
            return found.name
    return name.split(".")[0]


def require_values(name: str, value: Tensor, own: Tensor, where: str) -> None:
    """Refuse a tensor whose values the network's own kind of number can't hold.

    Raises:
        RequestError: Whole numbers or 8 bits in place of weights, or values that aren't finite.
    """
    if not own.is_floating_point():
        if not torch.equal(value.double(), value.to(own.dtype).double()):
            raise RequestError(f"{name} in {where} is {_dtype(value)}, not {_dtype(own)}", "get or write them again")
        return
    if value.dtype not in FLOATS:
        raise RequestError(
            f"{name} in {where} is {_dtype(value)}, so quantised or cut short, where the network has {_dtype(own)}",
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
