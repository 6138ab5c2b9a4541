"""LeNet-5, with pretrained weights that are part of ftkit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ftkit.api import Backbone, FtkitError, GroupSize, LayerGroup, Preprocessing, Pretrained, Summary, hookimpl

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("lenet_mnist.safetensors")

NOTE = "MNIST, top-1 99.0 %; included in ftkit"

_PREPROCESSING = Preprocessing(size=28, crop_pct=1.0, mean=(0.1307,), std=(0.3081,), fit="stretch")


@hookimpl
def ftkit_backbones() -> Mapping[str, Backbone]:
    return {"lenet": lenet()}


def lenet() -> Backbone:
    """LeNet-5 for grey images of 28 x 28 pixels."""
    return Backbone(
        name="lenet",
        groups=(
            LayerGroup("stem", r"conv1\."),
            LayerGroup("conv2", r"conv2\."),
            LayerGroup("fc1", r"fc1\."),
            LayerGroup("fc2", r"fc2\."),
            LayerGroup("head", r"head\."),
        ),
        head=("head",),
        build=_build,
        preprocessing=_PREPROCESSING,
        weights=(Pretrained("MNIST", _load, _PREPROCESSING, WEIGHTS.name, 0.25, NOTE, lambda: WEIGHTS),),
        summary=_summary(),
        family="lenet",
        min_size=28,
        fixed_size=True,
    )


def _build(num_classes: int) -> nn.Module:
    from ftkit.builtin.backbones.networks.lenet_network import LeNet

    return LeNet(num_classes)


def _load() -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise FtkitError(
            f"lenet's weights {WEIGHTS} can't be read: {error}", "reinstall ftkit, or use --weights none"
        ) from error


def _summary() -> Summary:
    return Summary(
        {
            "stem": _group(1 * 6 * 25, 6, activations=6664, entering=28 * 28),
            "conv2": _group(6 * 16 * 25, 16, activations=3176, entering=6 * 14 * 14),
            "fc1": _group(400 * 120, 120, activations=520, entering=400),
            "fc2": _group(120 * 84, 84, activations=84, entering=120),
            "head": _group(0, 0, activations=0, entering=84),
        },
        head_inputs=(84,),
        input_weights=6 * 25,
    )


def _group(weight: int, bias: int, activations: int, entering: int) -> GroupSize:
    return GroupSize({"weight": weight, "bias": bias, "norm-weight": 0, "norm-bias": 0}, activations, entering)
