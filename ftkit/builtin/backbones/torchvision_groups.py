"""Layer groups of torchvision's classification networks, from stem to head, one function a family.

The head group has the last layer of the classifier, the dropout before it and the auxiliary classifiers: the part that
transfer learning replaces. Hidden layers of a classifier (VGG, AlexNet, MobileNetV3, MaxVit) are a group of their own;
a final norm belongs to the last stage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ftkit.api import LayerGroup


@dataclass(frozen=True)
class Family:
    """What the networks of one family have in common.

    Attributes:
        groups: Given a network's name, returns patterns by group name, from stem to head.
        head: The layers with one output a class, the classifier first.
        options: Keyword arguments of torchvision's builder.
        aux_weight: Weight of the auxiliary classifiers' losses, from the reference code of their papers.
        size_step: Given the name of a network with a fixed size, returns the number that sizes are multiples of.
        size_options: Keyword arguments for a size.
        inputs: Mean and std of the networks' input, where it differs from the output of torchvision's transforms.
            torchvision converts inside these networks, which would fix the number of channels; ftkit turns that off.
    """

    groups: Callable[[str], dict[str, str]]
    head: tuple[str, ...]
    options: dict[str, bool] = field(default_factory=dict)
    aux_weight: float = 0.0
    size_step: Callable[[str], int] | None = None
    size_options: Callable[[int], dict[str, Any]] | None = None
    inputs: tuple[float, float] | None = None

    def layer_groups(self, name: str) -> tuple[LayerGroup, ...]:
        """The layer groups of the network called `name`."""
        return tuple(LayerGroup(group, pattern) for group, pattern in self.groups(name).items())


def _items(parent: str, first: int, last: int) -> str:
    """A pattern for the children `first` to `last`, both included, of a sequential module."""
    return rf"{parent}\.({'|'.join(map(str, range(first, last + 1)))})\."


def _stages(parent: str, bounds: tuple[tuple[int, int], ...]) -> dict[str, str]:
    """Patterns for `stage1`, `stage2`, ...: runs of children of a sequential module."""
    return {f"stage{number}": _items(parent, *bound) for number, bound in enumerate(bounds, 1)}


def _alexnet(name: str) -> dict[str, str]:
    return {
        "conv1": _items("features", 0, 2),
        "conv2": _items("features", 3, 5),
        "conv3": _items("features", 6, 7),
        "conv4": _items("features", 8, 9),
        "conv5": _items("features", 10, 12),
        "hidden": rf"avgpool\.|{_items('classifier', 0, 5)}",
        "head": r"classifier\.6\.",
    }


def _vgg(name: str) -> dict[str, str]:
    depth, _, norm = name.removeprefix("vgg").partition("_")
    convs = {"11": (1, 1, 2, 2, 2), "13": (2, 2, 2, 2, 2), "16": (2, 2, 3, 3, 3), "19": (2, 2, 4, 4, 4)}[depth]
    blocks, start = {}, 0
    for number, count in enumerate(convs, 1):
        end = start + count * (3 if norm else 2)  # each convolution has a ReLU, and a norm or none
        blocks[f"block{number}"] = _items("features", start, end)  # the pooling included
        start = end + 1
    return {**blocks, "hidden": rf"avgpool\.|{_items('classifier', 0, 4)}", "head": r"classifier\.[56]\."}


def _resnet(name: str) -> dict[str, str]:
    return {
        "stem": r"(conv1|bn1|relu|maxpool)\.",
        "layer1": r"layer1\.",
        "layer2": r"layer2\.",
        "layer3": r"layer3\.",
        "layer4": r"layer4\.",
        "head": r"(avgpool|fc)\.",
    }


def _regnet(name: str) -> dict[str, str]:
    blocks = {f"block{n}": rf"trunk_output\.block{n}\." for n in range(1, 5)}
    return {"stem": r"stem\.", **blocks, "head": r"(avgpool|fc)\."}


def _densenet(name: str) -> dict[str, str]:
    return {
        "stem": r"features\.(conv0|norm0|relu0|pool0)\.",
        "denseblock1": r"features\.(denseblock1|transition1)\.",
        "denseblock2": r"features\.(denseblock2|transition2)\.",
        "denseblock3": r"features\.(denseblock3|transition3)\.",
        "denseblock4": r"features\.(denseblock4|norm5)\.",
        "head": r"classifier\.",
    }


def _googlenet(name: str) -> dict[str, str]:
    return {
        "stem": r"(conv[123]|maxpool[12])\.",
        "inception3": r"(inception3[ab]|maxpool3)\.",
        "inception4": r"(inception4[a-e]|maxpool4)\.",
        "inception5": r"inception5[ab]\.",
        "head": r"(aux[12]|avgpool|dropout|fc)\.",
    }


def _inception(name: str) -> dict[str, str]:
    return {
        "stem": r"(Conv2d_\w+|maxpool[12])\.",
        "mixed5": r"Mixed_5[b-d]\.",
        "mixed6": r"Mixed_6[a-e]\.",
        "mixed7": r"Mixed_7[a-c]\.",
        "head": r"(AuxLogits|avgpool|dropout|fc)\.",
    }


def _squeezenet(name: str) -> dict[str, str]:
    fires = {"squeezenet1_0": ((3, 6), (7, 11), (12, 12)), "squeezenet1_1": ((3, 5), (6, 8), (9, 12))}[name]
    return {"stem": _items("features", 0, 2), **_stages("features", fires), "head": r"classifier\."}


def _shufflenet(name: str) -> dict[str, str]:
    return {
        "stem": r"(conv1|maxpool)\.",
        "stage2": r"stage2\.",
        "stage3": r"stage3\.",
        "stage4": r"stage4\.",
        "conv5": r"conv5\.",
        "head": r"fc\.",
    }


def _mnasnet(name: str) -> dict[str, str]:
    stages = _stages("layers", ((8, 8), (9, 9), (10, 10), (11, 11), (12, 12), (13, 13)))
    return {"stem": _items("layers", 0, 7), **stages, "last_conv": _items("layers", 14, 16), "head": r"classifier\."}


def _mobilenet_v2(name: str) -> dict[str, str]:
    stages = _stages("features", ((1, 1), (2, 3), (4, 6), (7, 10), (11, 13), (14, 16), (17, 17)))
    return {"stem": r"features\.0\.", **stages, "last_conv": r"features\.18\.", "head": r"classifier\."}


def _mobilenet_v3(name: str) -> dict[str, str]:
    small = ((1, 1), (2, 3), (4, 6), (7, 8), (9, 11))
    large = ((1, 1), (2, 3), (4, 6), (7, 10), (11, 12), (13, 15))
    stages = small if name.endswith("small") else large
    return {
        "stem": r"features\.0\.",
        **_stages("features", stages),
        "last_conv": rf"features\.{stages[-1][1] + 1}\.|avgpool\.",
        "hidden": r"classifier\.[01]\.",
        "head": r"classifier\.[23]\.",
    }


def _efficientnet(name: str) -> dict[str, str]:
    count = 6 if name == "efficientnet_v2_s" else 7
    stages = _stages("features", tuple((n, n) for n in range(1, count + 1)))
    return {
        "stem": r"features\.0\.",
        **stages,
        "last_conv": rf"features\.{count + 1}\.",
        "head": r"(avgpool|classifier)\.",
    }


def _convnext(name: str) -> dict[str, str]:
    return {
        "stem": r"features\.0\.",
        "stage1": r"features\.1\.",
        "stage2": r"features\.[23]\.",
        "stage3": r"features\.[45]\.",
        "stage4": r"features\.[67]\.|avgpool\.|classifier\.0\.",
        "head": r"classifier\.[12]\.",
    }


def _swin(name: str) -> dict[str, str]:
    return {
        "stem": r"features\.0\.",
        "stage1": r"features\.1\.",
        "stage2": r"features\.[23]\.",
        "stage3": r"features\.[45]\.",
        "stage4": r"features\.[67]\.|(norm|permute|avgpool|flatten)\.",
        "head": r"head\.",
    }


_MAXVIT_WINDOW = 7
"""Side of an attention window; the feature map of the last block, a 32nd of the image, must be a multiple of it."""


def _maxvit(name: str) -> dict[str, str]:
    blocks = {f"block{n + 1}": rf"blocks\.{n}\." for n in range(4)}
    return {"stem": r"stem\.", **blocks, "hidden": r"classifier\.[0-4]\.", "head": r"classifier\.5\."}


def _vit_patch(name: str) -> int:
    return int(name.rsplit("_", 1)[1])


def _vit(name: str) -> dict[str, str]:
    quarter = {"b": 12, "l": 24, "h": 32}[name.split("_")[1]] // 4
    stages = {}
    for number in range(1, 5):
        layers = "|".join(map(str, range((number - 1) * quarter, number * quarter)))
        stages[f"stage{number}"] = rf"encoder\.layers\.encoder_layer_({layers})\."
    stages["stage4"] += r"|encoder\.ln\."
    return {
        "stem": r"class_token|conv_proj\.|encoder\.(pos_embedding|dropout\.)",
        **stages,
        "head": r"heads\.",
    }


_AUXILIARY = {"aux_logits": True, "transform_input": False, "init_weights": True}
_AROUND_ZERO = (0.5, 0.5)

FAMILIES = {
    "alexnet": Family(_alexnet, ("classifier.6",)),
    "convnext": Family(_convnext, ("classifier.2",)),
    "densenet": Family(_densenet, ("classifier",)),
    "efficientnet": Family(_efficientnet, ("classifier.1",)),
    "efficientnet_v2": Family(_efficientnet, ("classifier.1",)),
    "googlenet": Family(_googlenet, ("fc", "aux1.fc2", "aux2.fc2"), _AUXILIARY, 0.3, inputs=_AROUND_ZERO),
    "inception_v3": Family(_inception, ("fc", "AuxLogits.fc"), _AUXILIARY, 0.3, inputs=_AROUND_ZERO),
    "maxvit": Family(
        _maxvit,
        ("classifier.5",),
        size_step=lambda name: 32 * _MAXVIT_WINDOW,
        size_options=lambda size: {"input_size": (size, size)},
    ),
    "mnasnet": Family(_mnasnet, ("classifier.1",)),
    "mobilenet_v2": Family(_mobilenet_v2, ("classifier.1",)),
    "mobilenet_v3": Family(_mobilenet_v3, ("classifier.3",)),
    "regnet": Family(_regnet, ("fc",)),
    "resnet": Family(_resnet, ("fc",)),
    "resnext": Family(_resnet, ("fc",)),
    "shufflenet": Family(_shufflenet, ("fc",)),
    "squeezenet": Family(_squeezenet, ("classifier.1",)),
    "swin": Family(_swin, ("head",)),
    "swin_v2": Family(_swin, ("head",)),
    "vgg": Family(_vgg, ("classifier.6",)),
    "vit": Family(_vit, ("heads.head",), size_step=_vit_patch, size_options=lambda size: {"image_size": size}),
    "wide_resnet": Family(_resnet, ("fc",)),
}


def family_of(name: str) -> str:
    """The family of a network by the start of its name: `wide_resnet50_2` -> `wide_resnet`."""
    return max((family for family in FAMILIES if name.startswith(family)), key=len)
