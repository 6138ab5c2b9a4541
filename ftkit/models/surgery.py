"""Changes of a backbone's network for a task: the head, and the number of input channels.

New layers keep the names of those that they replace, so layer groups and weights files still match.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ftkit.errors import RequestError
from ftkit.parts.backbone import Backbone, Head
from ftkit.plugin_errors import PluginError, plugin_boundary


def build_network(backbone: Backbone, num_classes: int, head: Head, channels: int) -> nn.Module:
    """A backbone's network with fresh weights, for a task.

    Args:
        channels: The channels of the images; 1 changes a network for RGB images to greyscale ones.

    Raises:
        RequestError: The network has no convolution with RGB input, or no hidden layer can be put before its head.
    """
    with plugin_boundary(f"building backbone {backbone.name!r}", backbone.build):
        network = backbone.build(num_classes)
    if not isinstance(network, nn.Module):
        raise PluginError(
            f"building backbone {backbone.name!r} returned {type(network).__name__}, not a network", "return the module"
        )
    lazy = next((name for name, parameter in network.named_parameters() if is_lazy(parameter)), None)
    if lazy is not None:
        raise PluginError(
            f"building backbone {backbone.name!r} returned a network whose {lazy} has no shape yet",
            "give lazy layers their sizes, or run the network on an image in build",
        )
    if channels < backbone.preprocessing.channels:
        _take_grey(network, backbone)
    if head != Head():
        _replace_head(network, backbone, head)
    return network


def first_convolution(network: nn.Module, channels: int) -> tuple[str, nn.Conv2d] | None:
    """Name and module of the first convolution with that number of input channels."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == channels and module.groups == 1:
            return name, module
    return None


def refit(
    backbone: Backbone, network: nn.Module, channels: int, source: str, state: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """A state dict in the shapes of a network that was built for a task.

    Position embeddings are resampled by the backbone. For greyscale images the first convolution's weights are summed
    over the colours: on RGB images with equal channels they compute the same.

    Args:
        channels: Input channels of the network.
        source: Name of the weights in messages.

    Raises:
        RequestError: The weights are for greyscale images and the network for RGB.
    """
    state = backbone.refit(state) if backbone.refit is not None else state
    first = first_convolution(network, channels)
    weight = state.get(f"{first[0]}.weight") if first else None
    if first is None or weight is None or weight.ndim != 4:
        return state
    if weight.shape[1] == 1 < channels:
        raise RequestError(f"{source}: the weights are those of a network for grey images", "give --channels 1")
    if weight.shape[1] == backbone.preprocessing.channels > channels:
        return {**state, f"{first[0]}.weight": _summed(weight)}
    return state


class _DroppingLinear(nn.Linear):
    """A linear layer with dropout before it; its parameters have the names of a plain one's."""

    def __init__(self, inputs: int, outputs: int, bias: bool, dropout: float) -> None:
        super().__init__(inputs, outputs, bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.dropout(x))


class _DroppingConv2d(nn.Conv2d):
    """A 1x1 convolution with dropout before it; its parameters have the names of a plain one's."""

    def __init__(self, inputs: int, outputs: int, bias: bool, dropout: float) -> None:
        super().__init__(inputs, outputs, kernel_size=1, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.dropout(x))


def _replace_head(network: nn.Module, backbone: Backbone, head: Head) -> None:
    """Replace the classifier; auxiliary classifiers stay linear."""
    name = backbone.head[0]
    old = network.get_submodule(name)
    if not isinstance(old, nn.Linear) and not (isinstance(old, nn.Conv2d) and old.kernel_size == (1, 1)):
        raise RequestError(
            f"the head of {backbone.name} is a {type(old).__name__}, which takes neither hidden layer nor dropout",
            "leave out head.hidden and head.dropout",
        )
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, _with_dropout(old, head) if head.hidden is None else _mlp(old, head))


def _with_dropout(old: nn.Linear | nn.Conv2d, head: Head) -> nn.Module:
    """The layer with dropout and the same weights."""
    is_linear, bias = isinstance(old, nn.Linear), old.bias is not None
    inputs, outputs = _ends(old)
    new = (_DroppingLinear if is_linear else _DroppingConv2d)(inputs, outputs, bias, head.dropout)
    new.load_state_dict(old.state_dict(), assign=True)
    return new


def _mlp(old: nn.Linear | nn.Conv2d, head: Head) -> nn.Sequential:
    """Hidden layer, ReLU, dropout and last layer; 1x1 convolutions where the old layer was one."""
    assert head.hidden is not None
    inputs, outputs = _ends(old)
    bias = old.bias is not None
    first: nn.Module = nn.Linear(inputs, head.hidden)
    last: nn.Module = nn.Linear(head.hidden, outputs, bias=bias)
    if isinstance(old, nn.Conv2d):
        first, last = nn.Conv2d(inputs, head.hidden, 1), nn.Conv2d(head.hidden, outputs, 1, bias=bias)
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(head.dropout), last)


def _ends(layer: nn.Linear | nn.Conv2d) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels


def _take_grey(network: nn.Module, backbone: Backbone) -> None:
    first = first_convolution(network, backbone.preprocessing.channels)
    if first is None:
        raise RequestError(
            f"{backbone.name} has no convolution with RGB input that could be changed to greyscale",
            "drop --channels 1, or choose another backbone",
        )
    convolution = first[1]
    convolution.in_channels = 1
    convolution.weight = nn.Parameter(_summed(convolution.weight.detach()))


def _summed(weight: Tensor) -> Tensor:
    return torch.sum(weight, dim=1, keepdim=True, dtype=torch.float32)
