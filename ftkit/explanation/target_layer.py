"""The layer whose activations explain a network's outputs: the last one with a value for each part of the image.

It is found by a forward and a backward pass on one image: of the modules before the head, the last one whose output is
a feature map or a sequence of tokens. Where that is a sequence of tokens between which there is attention, the
attention explains the outputs too; otherwise it is the last one that the head's input depends on at the positions of
the image, since some networks read a class token alone after their last attention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ftkit.errors import RequestError
from ftkit.explanation.attention import AttentionRecorder, of_tokens
from ftkit.models.compute.devices import Compute
from ftkit.models.compute.memory_format import preserve_state
from ftkit.parts.backbone import Backbone, group_of
from ftkit.transforms.preprocessing import Preprocessing

Form = Literal["channels first", "channels last", "tokens"]

POOLS = (nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
PASSIVE = (nn.Linear, nn.Identity, nn.Dropout, nn.Softmax, nn.Flatten, *POOLS)
"""Layers whose outputs aren't taken: they copy or pool their input, or are projections inside a block."""
PLAIN = Compute(torch.device("cpu"), "fp32")
MOST_PREFIX = 16
"""Most class and register tokens before those of the image."""


@dataclass(frozen=True)
class TargetLayer:
    """A layer with a value for each part of the image.

    Attributes:
        name: The module's dotted name.
        form: `channels first` (b, c, grid, grid), `channels last` (b, grid, grid, c), or `tokens` (b, n, c).
        grid: Parts along each side of the image.
        prefix: Tokens before those of the image.
        attended: Whether the attention between all tokens explains the outputs.
    """

    name: str
    form: Form
    grid: int
    prefix: int = 0
    attended: bool = False

    def channels_first(self, values: Tensor) -> Tensor:
        """Activations of the layer, or their gradients, as `(b, c, grid, grid)`."""
        if self.form == "channels first":
            return values
        if self.form == "tokens":
            values = values[:, self.prefix :].reshape(len(values), self.grid, self.grid, -1)
        return values.movedim(-1, 1)


def find_target_layer(
    network: nn.Module, backbone: Backbone, preprocessing: Preprocessing, compute: Compute = PLAIN
) -> TargetLayer:
    """The layer of a network in eval mode.

    Args:
        backbone: Describes the network: its layer groups and its head.

    Raises:
        RequestError: The network has no such layer.
    """
    traced, attention = _trace(network, backbone, compute, preprocessing)
    found = [(layer, gradient) for name, gradient in traced if (layer := _layer(name, tuple(gradient.shape)))]
    if found and found[-1][0].form == "tokens" and of_tokens(attention, 1, found[-1][1].shape[1]):
        return replace(found[-1][0], attended=True)
    for layer, gradient in reversed(found):
        if bool(layer.channels_first(gradient).any()):
            return layer
    raise RequestError(
        f"{backbone.name} with images of {preprocessing.size} pixels has no layer with a value for each part of the "
        "image, so there is no heat map",
        "train with a larger --image-size, or with another backbone",
    )


def _trace(
    network: nn.Module, backbone: Backbone, compute: Compute, preprocessing: Preprocessing
) -> tuple[list[tuple[str, Tensor]], list[Tensor]]:
    """Each module's name, and how the input of the head depends on its output for an image; and attention matrices.

    Both are in the order of the calls; what the input doesn't depend on is left out.

    The dependence is a gradient of a random combination of the values that the head sees, so that a head of zeros
    doesn't hide it.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (1, preprocessing.channels, preprocessing.size, preprocessing.size)
    image = compute.to_device(torch.randn(shape, generator=generator))
    outputs, seen = dict[str, Tensor](), list[Tensor]()

    def keep(name: str, output: Tensor) -> Tensor:
        outputs.pop(name, None)
        outputs[name] = output
        # A copy goes on, since the network may change its own values in place.
        return output.clone()

    watched, attention = _hooks(_watched(network, backbone), keep), AttentionRecorder()
    with preserve_state(network), torch.enable_grad(), compute.autocast(), watched:
        handle = _head(network, backbone).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            with attention:
                logits = network(image.requires_grad_())
        finally:
            handle.remove()
        last = seen[0] if seen and seen[0].requires_grad else logits
        score = (last.float() * torch.randn(last.shape, generator=generator).to(last.device)).sum()
        usable = {name: output for name, output in outputs.items() if output.requires_grad and len(output) == 1}
        matrices = [one for one in attention.matrices if one.requires_grad]
        tensors = [*usable.values(), *matrices]
        gradients = torch.autograd.grad(score, tensors, allow_unused=True) if tensors else ()
    rows = zip(usable, gradients, strict=False)
    used = zip(matrices, gradients[len(usable) :], strict=True)
    return [row for row in rows if row[1] is not None], [one for one, gradient in used if gradient is not None]


def _head(network: nn.Module, backbone: Backbone) -> nn.Module:
    return network.get_submodule(backbone.head[0])


def _watched(network: nn.Module, backbone: Backbone) -> Iterator[tuple[str, nn.Module]]:
    """The modules before the head, by name."""
    head = backbone.groups[-1].name
    for name, module in network.named_modules():
        group = group_of(backbone.groups, f"{name}.")
        if name and not isinstance(module, PASSIVE) and (group is None or group.name != head):
            yield name, module


@contextmanager
def _hooks(modules: Iterable[tuple[str, nn.Module]], keep: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    handles = [
        module.register_forward_hook(lambda _, inputs, output, name=name: map_first(output, lambda x: keep(name, x)))
        for name, module in modules
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def map_first(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A module's output with its tensor, or the first tensor of a tuple, changed; None where it is anything else."""
    if isinstance(output, Tensor):
        return change(output) if output.is_floating_point() else None
    if type(output) is tuple and output and isinstance(output[0], Tensor) and output[0].is_floating_point():
        return change(output[0]), *output[1:]
    return None


def _layer(name: str, shape: tuple[int, ...]) -> TargetLayer | None:
    """The layer that a module is by the shape of its output for one square image; None for none."""
    if len(shape) == 4:
        _, first, second, last = shape
        if second == last > 1:
            return TargetLayer(name, "channels first", last)
        return TargetLayer(name, "channels last", first) if first == second > 1 else None
    if len(shape) != 3 or shape[2] == 1:
        return None
    side = math.isqrt(shape[1])
    prefix = shape[1] - side**2
    return TargetLayer(name, "tokens", side, prefix) if side > 1 and prefix <= MOST_PREFIX else None
