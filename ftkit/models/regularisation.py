"""Stochastic depth and dropout rates of a backbone's own layers.

They act in training alone, and only in layer groups that train: frozen groups are in eval mode.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

from ftkit.errors import RequestError
from ftkit.parts.backbone import Backbone

_PLACE = re.compile(r"drop_path\d*|stochastic_(depth|dropout)")
"""Names of the modules where timm, transformers and torchvision put stochastic depth, or an identity at rate 0."""


def set_regularisation(
    network: nn.Module, backbone: Backbone, drop_path: float | None = None, dropout: float | None = None
) -> None:
    """Set the rates of a network's own layers, in place; None leaves them as they are.

    Raises:
        RequestError: The network has no such layers.
    """
    if drop_path is not None:
        _set_drop_path(network, backbone, drop_path)
    if dropout is not None:
        _set_dropout(network, backbone, dropout)


def _set_drop_path(network: nn.Module, backbone: Backbone, rate: float) -> None:
    """Set rates that grow linearly over the blocks, from 0 to `rate` (Huang et al., 2016; timm)."""
    places = list(_drop_paths(network))
    if not places:
        raise RequestError(
            f"--drop-path: backbone {backbone.name} has no stochastic depth", "drop it, or choose another backbone"
        )
    blocks = list(dict.fromkeys(parent for parent, _ in places))
    for parent, child in places:
        number = blocks.index(parent)
        of_block = rate * number / (len(blocks) - 1) if len(blocks) > 1 else rate
        block = network.get_submodule(parent)
        module = getattr(block, child)
        if isinstance(module, nn.Identity):
            setattr(block, child, StochasticDepth(of_block, "row").train(block.training))
        elif isinstance(module, StochasticDepth):
            module.p = of_block
        else:
            module.drop_prob = of_block


def _drop_paths(network: nn.Module) -> Iterator[tuple[str, str]]:
    """The block and the attribute of each stochastic-depth module, in the order of the network."""
    for name, module in network.named_modules():
        parent, _, child = name.rpartition(".")
        has_rate = isinstance(module, StochasticDepth) or type(module).__name__.endswith("DropPath")
        if has_rate or (isinstance(module, nn.Identity) and _PLACE.fullmatch(child)):
            yield parent, child


def _set_dropout(network: nn.Module, backbone: Backbone, rate: float) -> None:
    """Set the rate of all dropout layers outside the head's own layers."""
    in_head = tuple(f"{layer}." for layer in backbone.head)
    found = [
        module
        for name, module in network.named_modules()
        if isinstance(module, _DropoutNd) and not name.startswith(in_head)
    ]
    if not found:
        raise RequestError(
            f"--backbone-dropout: backbone {backbone.name} has no dropout layers", "drop it, or choose another backbone"
        )
    for module in found:
        module.p = rate
