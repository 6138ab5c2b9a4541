"""Parameters and activations of a backbone, measured on the meta device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from ftkit.errors import RequestError
from ftkit.models.parameter_groups import assign_parameters
from ftkit.models.surgery import build_network, first_convolution
from ftkit.optim.parameter_roles import roles
from ftkit.parts.backbone import ROLES, Backbone, GroupSize, Head, LayerGroup, Role, Summary, group_of

_CLASSES = 2
_BATCH = 2


class _EmptyOnMeta(TorchFunctionMode):
    """Sends only `torch.empty` to the meta device: some builders, such as RegNet's, compute with small tensors."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def build_on_meta(
    backbone: Backbone, num_classes: int, head: Head | None = None, channels: int | None = None
) -> nn.Module:
    """The network with shapes but without values, which takes neither memory nor time."""
    wanted = (backbone, num_classes, head or Head(), channels or backbone.preprocessing.channels)
    try:
        with _EmptyOnMeta():
            return build_network(*wanted).to("meta")
    except (RuntimeError, NotImplementedError, RequestError):
        # Some networks run a part of themselves while they are built, which needs values.
        with torch.random.fork_rng(devices=[]):
            return build_network(*wanted).to("meta")


def group_parameters(backbone: Backbone) -> dict[str, int]:
    """Number of parameters of each layer group, without the layers in `backbone.head`.

    Raises:
        RequestError: The network can't be built, has no head, or has a parameter in no layer group.
    """
    counts = _parameters(build_on_meta(backbone, _CLASSES), backbone)
    return {name: sum(counts[name].values()) for name in backbone.group_names}


def measure(backbone: Backbone, image_size: int | None = None) -> Summary:
    """Parameters and activations by layer group, from a forward pass on the meta device.

    Args:
        backbone: Its `summary` isn't used.
        image_size: Side of the images, in pixels; by default that of the backbone's preprocessing.

    Raises:
        RequestError: A parameter is in no layer group, or a head layer doesn't exist.
    """
    model = build_on_meta(backbone, _CLASSES)
    heads = [_head_layer(model, backbone, name) for name in backbone.head]
    preprocessing = backbone.preprocessing
    size = image_size or preprocessing.size
    kept, entering = _activations(
        model, backbone.groups, torch.empty(_BATCH, preprocessing.channels, size, size, device="meta")
    )
    counts = _parameters(model, backbone)
    first = first_convolution(model, preprocessing.channels)
    return Summary(
        groups={g: GroupSize(counts[g], kept[g], entering[g]) for g in backbone.group_names},
        head_inputs=tuple(weight[0].numel() for weight, _ in heads),
        head_bias=all(bias for _, bias in heads),
        input_weights=first[1].weight[:, 0].numel() if first else 0,
    )


def _head_layer(model: nn.Module, backbone: Backbone, name: str) -> tuple[Tensor, bool]:
    """Weight of a head layer, and whether it has a bias."""
    try:
        weight = model.get_parameter(f"{name}.weight")
    except AttributeError:
        raise RequestError(
            f"backbone {backbone.name!r} has no layer {name!r} that its head names", "this is a fault of the backbone"
        ) from None
    return weight, f"{name}.bias" in dict(model.named_parameters())


def _parameters(model: nn.Module, backbone: Backbone) -> dict[str, dict[Role, int]]:
    """Number of parameters by group and role, without the head layers."""
    role_of, sizes = roles(model), {name: p.numel() for name, p in model.named_parameters()}
    in_head = tuple(f"{name}." for name in backbone.head)
    counts: dict[str, dict[Role, int]] = {}
    for group, names in assign_parameters(model, backbone.groups).items():
        counts[group] = dict.fromkeys(ROLES, 0)
        for name in names:
            if not name.startswith(in_head):
                counts[group][role_of[name]] += sizes[name]
    return counts


def _activations(model: nn.Module, groups: Sequence[LayerGroup], images: Tensor) -> tuple[Counter[str], Counter[str]]:
    """Elements that a group keeps for the backward pass of one image, and elements of its input.

    A storage counts once, for the first group that keeps it; parameters don't count.
    """
    counts: Counter[str] = Counter()
    entering: Counter[str] = Counter()
    running = [groups[0].name]  # operations between modules count for the module that ran last
    seen = {p.untyped_storage()._cdata for p in model.parameters()}
    alive: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            alive.append(tensor)
            counts[running[-1]] += storage.nbytes() // tensor.element_size() // len(images)
        return tensor

    def enter(module: nn.Module, args: Any) -> None:
        running.append(owner[module])
        if running[-1] not in entering and args and isinstance(args[0], Tensor):
            entering[running[-1]] = args[0].numel() // len(images)

    for_group = ((name, module, group_of(groups, f"{name}.")) for name, module in model.named_modules())
    owner = {module: group.name for _, module, group in for_group if group is not None}
    hooks = [module.register_forward_pre_hook(enter) for module in owner]
    try:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            model.train()(images)
    finally:
        for hook in hooks:
            hook.remove()
    return counts, entering
