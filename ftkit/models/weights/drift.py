"""Weight drift: the distance of a network's weights from those in a file, by layer and layer group."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ftkit.files.tensor_files import open_tensors


@dataclass
class DriftCache:
    """Measurements that stay valid.

    Attributes:
        norms: Norms of the initial weights, by parameter.
        frozen: Address and version of the tensor of each frozen parameter, and its distance from the initial weights.
    """

    norms: dict[str, float] = field(default_factory=dict)
    frozen: dict[str, tuple[tuple[int, int], float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """The parameters of one module in one layer group, without those of its submodules.

    Attributes:
        name: The name of the module, or of the parameter where the network itself owns it.
        distance: Euclidean distance from the initial values.
        first: Euclidean norm of the initial values.
    """

    name: str
    group: str
    parameters: int
    distance: float
    first: float


def layer_drift(
    network: nn.Module, members: Mapping[str, Sequence[str]], first: Path, known: DriftCache | None = None
) -> list[Layer]:
    """The distance of each layer of a network from the parameters in a safetensors file.

    One tensor at a time is read; differences are summed in double precision on the CPU.

    Args:
        members: Parameter names by layer group.
        known: Earlier measurements, which this call uses and extends.
    """
    found: defaultdict[tuple[str, str], list[tuple[int, float, float]]] = defaultdict(list)
    for group, name, size, distance, norm in _parameters(network, members, first, known or DriftCache()):
        found[name.rpartition(".")[0] or name, group].append((size, distance, norm))
    return [
        Layer(layer, group, sum(s for s, _, _ in parts), _norm(d for _, d, _ in parts), _norm(n for _, _, n in parts))
        for (layer, group), parts in found.items()
    ]


def group_drift(found: Sequence[Layer]) -> dict[str, float | None]:
    """Relative distance of each group."""
    groups: defaultdict[str, list[Layer]] = defaultdict(list)
    for layer in found:
        groups[layer.group].append(layer)
    return {
        group: relative_drift(_norm(x.distance for x in parts), _norm(x.first for x in parts))
        for group, parts in groups.items()
    }


def relative_drift(distance: float, first: float) -> float | None:
    """Distance divided by the norm; None where the norm is 0, as for biases initialised with 0."""
    if distance == 0:
        return 0.0
    return distance / first if first else None


def _parameters(
    network: nn.Module, members: Mapping[str, Sequence[str]], first: Path, known: DriftCache
) -> Iterator[tuple[str, str, int, float, float]]:
    """Group, name, size, distance and initial norm of each parameter."""
    parameters = dict(network.named_parameters())
    with torch.no_grad(), open_tensors(first) as file:
        for group, names in members.items():
            for name in names:
                parameter = parameters[name]
                state = parameter.data_ptr(), parameter._version
                if name in known.norms and not parameter.requires_grad and known.frozen.get(name, (None,))[0] == state:
                    distance = known.frozen[name][1]
                else:
                    before, now = file.get_tensor(name), parameter.cpu()
                    known.norms.setdefault(name, _length(before))
                    # Most parameters are unchanged, and comparing is much cheaper.
                    distance = 0.0 if torch.equal(now, before) else _length(now - before)
                    known.frozen.pop(name, None)
                    if not parameter.requires_grad:
                        known.frozen[name] = state, distance
                yield group, name, parameter.numel(), distance, known.norms[name]


def _length(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def _norm(parts: Iterator[float]) -> float:
    return math.sqrt(sum(part * part for part in parts))
