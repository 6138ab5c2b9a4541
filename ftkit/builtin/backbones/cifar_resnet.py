"""The ResNets for CIFAR-10 of He et al. (2015): 20, 32, 44 and 56 layers, with option A shortcuts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from ftkit.api import Backbone, GroupSize, LayerGroup, Preprocessing, Summary, hookimpl

if TYPE_CHECKING:
    from torch import nn

DEPTHS = (20, 32, 44, 56)
_SIZE = 32


@hookimpl
def ftkit_backbones() -> Mapping[str, Backbone]:
    return {f"cifar_resnet{depth}": cifar_resnet(depth) for depth in DEPTHS}


def cifar_resnet(depth: int) -> Backbone:
    """The network with `depth` = 6n + 2 layers: three stages of n blocks, for colour images."""
    return Backbone(
        name=f"cifar_resnet{depth}",
        groups=(
            LayerGroup("stem", r"(conv1|bn1)\."),
            LayerGroup("layer1", r"layer1\."),
            LayerGroup("layer2", r"layer2\."),
            LayerGroup("layer3", r"layer3\."),
            LayerGroup("head", r"linear\."),
        ),
        head=("linear",),
        build=partial(_build, (depth - 2) // 6),
        preprocessing=Preprocessing(size=_SIZE, crop_pct=1.0),
        summary=_summary((depth - 2) // 6),
        family="cifar_resnet",
    )


def _build(blocks: int, num_classes: int) -> nn.Module:
    from ftkit.builtin.backbones.networks.cifar_resnet_network import CifarResNet

    return CifarResNet(blocks, num_classes)


def _summary(blocks: int) -> Summary:
    """Sizes in closed form: a block keeps four feature maps, and two numbers per channel for each norm."""
    pixels = _SIZE**2
    groups = {"stem": _group(3 * 16 * 9, 16, 3 * pixels + 2 * 16 * (pixels + 1), 3 * pixels)}
    inputs = 16
    for number, width in enumerate((16, 32, 64), 1):
        side = _SIZE >> (number - 1)
        convs = (inputs + (2 * blocks - 1) * width) * width * 9
        entering = inputs * pixels if number < 3 else inputs * (2 * side) ** 2
        groups[f"layer{number}"] = _group(convs, 2 * blocks * width, 4 * blocks * width * (side**2 + 1), entering)
        inputs = width
    return Summary({**groups, "head": _group(0, 0, 64, 64)}, head_inputs=(64,), input_weights=16 * 9)


def _group(weight: int, norm: int, activations: int, entering: int) -> GroupSize:
    return GroupSize({"weight": weight, "bias": 0, "norm-weight": norm, "norm-bias": norm}, activations, entering)
