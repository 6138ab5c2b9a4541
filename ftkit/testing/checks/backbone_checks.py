"""The contract of a backbone: its description matches the network, and the network trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ftkit.api import Backbone
from ftkit.data.plugin_checks import check_description
from ftkit.testing.contract import require, run_plan_check
from ftkit.testing.randomness import seeded

if TYPE_CHECKING:
    from torch import Tensor, nn

CLASSES = 7
DRAWS = 24
"""Most passes until each parameter must have had a gradient. A branch that is taken with probability 1/4 is missed with
probability 1/1000; the draws are seeded, so the result is always the same."""


def check_backbone(backbone: Backbone, size: int | None = None, train: bool = True) -> None:
    """Check a backbone's description against the network that it builds.

    Args:
        size: Side of the images in pixels; by default the backbone's own. Small images are faster.
        train: Also run forward and backward passes; otherwise only shapes are checked, without allocating memory.

    Raises:
        ContractError: A parameter or a layer is in no group or in several; groups aren't in order from the input to
            the head; the head has the wrong number of outputs; `summary` or `parameters` doesn't match the network; a
            pass fails, leaves a parameter without a gradient, or changes frozen values.
    """
    from ftkit.models.model_size import build_on_meta

    run_plan_check(check_description, backbone)
    network = build_on_meta(backbone, CLASSES)
    check_groups(backbone, network)
    check_head(backbone, network)
    if backbone.parameters is not None:
        check_body_parameters(backbone, network)
    if backbone.summary is not None:
        check_parameters(backbone, network)
    if train:
        check_training(backbone, size)


def check_groups(backbone: Backbone, network: nn.Module) -> None:
    """Each parameter and each leaf module is in exactly one group, and no group is empty."""
    from ftkit.optim.parameter_roles import roles

    role_of = roles(network)
    for name, role in role_of.items():
        owners = [group.name for group in backbone.groups if group.owns(name, role)]
        require(len(owners) == 1, f"parameter {name} is in {_few(owners)} of its layer groups")
    for name, module in network.named_modules():
        if name and not list(module.children()):
            owners = [group.name for group in backbone.groups if group.owns(f"{name}.")]
            require(len(owners) == 1, f"layer {name} is in {_few(owners)} of its layer groups")
    for group in backbone.groups:
        require(any(map(group.owns, network.state_dict())), f"layer group {group.name} is empty")


def check_order(backbone: Backbone, layers: Sequence[str]) -> None:
    """Groups run from the input to the head.

    Args:
        layers: Names of layers in the order of the forward pass.
    """
    first = [next((layers.index(name) for name in layers if group.owns(f"{name}.")), None) for group in backbone.groups]
    # A group of plain parameters has no layer. The head is excluded: its layers may be called anywhere.
    places = [place for place in first[:-1] if place is not None]
    require(places == sorted(places), "its layer groups aren't in order from the input to the head")


def check_head(backbone: Backbone, network: nn.Module) -> None:
    """The last group is the head and contains its layers, and each of these has one output for each class."""
    *body, last = backbone.groups
    require(last.name == "head", f"its last layer group is {last.name}", "name it head")
    for layer in backbone.head:
        require(last.owns(f"{layer}."), f"the head's layer {layer} isn't in the last layer group")
        require(not any(group.owns(f"{layer}.") for group in body), f"the head's layer {layer} is in two groups")
        outputs = network.get_parameter(f"{layer}.weight").shape[0]
        require(outputs == CLASSES, f"the head's layer {layer} has {outputs} outputs for {CLASSES} classes")


def check_body_parameters(backbone: Backbone, network: nn.Module) -> None:
    """The number of parameters that lists show is the network's."""
    in_head = tuple(f"{layer}." for layer in backbone.head)
    built = sum(p.numel() for name, p in network.named_parameters() if not name.startswith(in_head))
    require(
        backbone.body_parameters == built,
        f"it is listed with {backbone.body_parameters:,} parameters without the head, the network has {built:,}",
    )


def check_parameters(backbone: Backbone, network: nn.Module) -> None:
    """The summary has the network's numbers of parameters, by group and by role."""
    from ftkit.optim.parameter_roles import roles

    assert backbone.summary is not None, "the caller checks"
    built = sum(parameter.numel() for parameter in network.parameters())
    said = backbone.summary.parameters(CLASSES)
    require(said == built, f"its summary has {said:,} parameters, the network {built:,}")
    counts = {group: dict.fromkeys(size.parameters, 0) for group, size in backbone.summary.groups.items()}
    role_of, in_head = roles(network), tuple(f"{layer}." for layer in backbone.head)
    for name, tensor in network.named_parameters():
        group = next(group.name for group in backbone.groups if group.owns(name, role_of[name]))
        if not name.startswith(in_head):
            counts[group][role_of[name]] += tensor.numel()
    for group, count in counts.items():
        listed = dict(backbone.summary.groups[group].parameters)
        require(count == listed, f"its summary has {listed} parameters in group {group}, the network {count}")


def check_training(backbone: Backbone, size: int | None = None) -> None:
    """Forward and backward passes with everything trainable, then with the head alone; then a pass in eval mode.

    Networks may choose a branch at random or by the image, so one pass may not reach all parameters. Several seeded
    passes with different images are made, until each parameter has had a gradient; the result is reproducible.
    """
    from ftkit.models.weights.files import Contents
    from ftkit.models.weights.pretrained import Target, load_into

    described = backbone.for_size(size or backbone.preprocessing.size)
    side = described.preprocessing.size if described.fixed_size else (size or described.preprocessing.size)
    with seeded(0):
        network = described.build(CLASSES)
        _check_gradients(network, described, side)
        _check_frozen(network, described, side)
        network.eval()
        shape = tuple(network(_images(described, side, 0)).shape)
    require(shape == (2, CLASSES), f"in eval mode its outputs have shape {shape} for 2 images and {CLASSES} classes")
    report = load_into(
        network, Contents(network.state_dict()), Target(described.head, described.groups, keep_head=True)
    )
    require(report.missing == (), f"its own weights don't load: {_few(list(report.missing))} are missing")


def _check_gradients(network: nn.Module, backbone: Backbone, side: int) -> None:
    """Each parameter gets a gradient in at least one of several passes."""
    from ftkit.models.parameter_groups import set_trainable

    set_trainable(network, backbone.groups, set(backbone.group_names))
    without = [name for name, _ in network.named_parameters()]
    for draw in range(DRAWS):
        used: list[str] = []
        with _record_layers(network, used):
            logits = _backward(network, backbone, side, draw)
        check_order(backbone, used)
        shapes = [tuple(each.shape) for each in logits]
        require(shapes == [(2, CLASSES)] * len(backbone.head), f"in training mode its outputs have shapes {shapes}")
        without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
        if not without:
            return
    require(False, f"{_few(without)} get no gradient in {DRAWS} passes", "use them in forward, or remove them")


def _check_frozen(network: nn.Module, backbone: Backbone, side: int) -> None:
    """With the head alone, its parameters get a gradient in at least one of several passes; nothing else changes."""
    import torch

    from ftkit.models.parameter_groups import set_trainable

    head = backbone.groups[-1]
    network.zero_grad()
    set_trainable(network, backbone.groups, {head.name})
    before = {name: buffer.clone() for name, buffer in network.named_buffers() if not head.owns(name)}
    without: list[str] = []
    for draw in range(DRAWS):
        _backward(network, backbone, side, draw)
        given = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
        strange = [name for name in given if not head.owns(name)]
        require(not strange, f"with the head alone, {_few(strange)} has the wrong gradient")
        for name, buffer in network.named_buffers():
            require(name not in before or torch.equal(buffer, before[name]), f"{name} changed while it was frozen")
        without = [name for name, _ in network.named_parameters() if head.owns(name) and name not in given]
        if not without:
            return
    require(False, f"with the head alone, {_few(without)} has the wrong gradient: none in {DRAWS} passes")


def _backward(network: nn.Module, backbone: Backbone, side: int, draw: int) -> tuple[Tensor, ...]:
    """The outputs for the images of a draw, after a backward pass if any parameter trains."""
    import torch

    with seeded(draw):
        logits = _outputs(network, _images(backbone, side, draw))
        loss = _loss(logits)
        if loss.requires_grad:  # the branch taken may have no trainable parameter
            torch.autograd.backward(loss)
    return logits


def _images(backbone: Backbone, side: int, draw: int) -> Tensor:
    """Two random images whose brightness and contrast depend on the draw, since networks may branch on them."""
    import torch

    mean, spread = (0.0, 1.0, -1.0, 2.0, -2.0)[draw % 5], (1.0, 0.2, 3.0)[draw % 3]
    return torch.randn(2, backbone.preprocessing.channels, side, side) * spread + mean


@contextmanager
def _record_layers(network: nn.Module, used: list[str]) -> Iterator[None]:
    """Record the names of layers with parameters in the order of the forward pass."""

    def note(name: str) -> Callable[..., None]:
        return lambda module, inputs: used.append(name)

    layers = [(n, m) for n, m in network.named_modules() if n and next(m.parameters(recurse=False), None) is not None]
    handles = [module.register_forward_pre_hook(note(name)) for name, module in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _outputs(network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    out: Any = network(images)
    return tuple(out) if isinstance(out, tuple | list) else (out,)


def _loss(logits: tuple[Tensor, ...]) -> Tensor:
    import torch

    return torch.stack([each.square().sum() + each.sum() for each in logits]).sum()


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "none"
