"""What a backbone must keep: groups that own the network, a head that is its own, and a forward pass that fits."""

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
"""Most passes in which a parameter may stay without a gradient: a branch that is taken once in four times is missed in
one check of a thousand, the same one each time."""


def check_backbone(backbone: Backbone, size: int | None = None, train: bool = True) -> None:
    """Check a backbone's description against the network that it builds.

    Args:
        size: Side of the images that it is run on, in pixels; by default its own. A small one is quicker.
        train: Build it with weights and go forward and backward; otherwise only its shapes are looked at, which
            takes no memory.

    Raises:
        ContractError: A parameter or a layer is in no group, or in several; groups aren't used in order from the
            input to the head; the head puts out another number of values than there are classes; the summary isn't the
            network's; a pass fails, leaves a parameter without a gradient, or moves what is frozen.
    """
    from ftkit.models.model_size import build_on_meta

    run_plan_check(check_description, backbone)
    network = build_on_meta(backbone, CLASSES)
    check_groups(backbone, network)
    check_head(backbone, network)
    if backbone.summary is not None:
        check_parameters(backbone, network)
    if train:
        check_training(backbone, size)


def check_groups(backbone: Backbone, network: nn.Module) -> None:
    """Each parameter and each leaf module is in exactly one group, and each group has one."""
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
        require(any(map(group.owns, network.state_dict())), f"layer group {group.name} owns nothing")


def check_order(backbone: Backbone, layers: Sequence[str]) -> None:
    """Groups run from the input to the head.

    Args:
        layers: Names of layers in the order in which they are used.
    """
    first = [next((layers.index(name) for name in layers if group.owns(f"{name}.")), None) for group in backbone.groups]
    # A group of a network's own tensors has no layer; a classifier may be used anywhere by its name.
    places = [place for place in first[:-1] if place is not None]
    require(places == sorted(places), "its layer groups don't run from the input to the head")


def check_head(backbone: Backbone, network: nn.Module) -> None:
    """The last group is the head, holds the head's layers, and each of these puts out one value a class."""
    *body, last = backbone.groups
    require(last.name == "head", f"its last layer group is {last.name}", "call it head")
    for layer in backbone.head:
        require(last.owns(f"{layer}."), f"the head's layer {layer} isn't in the last layer group")
        require(not any(group.owns(f"{layer}.") for group in body), f"the head's layer {layer} is in two groups")
        outputs = network.get_parameter(f"{layer}.weight").shape[0]
        require(outputs == CLASSES, f"the head's layer {layer} puts out {outputs} values for {CLASSES} classes")


def check_parameters(backbone: Backbone, network: nn.Module) -> None:
    """The summary counts the network's parameters, group by group and role by role."""
    from ftkit.optim.parameter_roles import roles

    assert backbone.summary is not None, "the caller looks"
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
    """Forward and backward with everything trainable, then with the head alone; then in eval mode.

    A network may take another branch by chance or by the image, so that one pass doesn't reach all parameters: several
    seeded ones are made, of other images, until each has had a gradient. The verdict is the same each time.
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
    require(shape == (2, CLASSES), f"in eval mode it puts out {shape} for two images and {CLASSES} classes")
    report = load_into(
        network, Contents(network.state_dict()), Target(described.head, described.groups, keep_head=True)
    )
    require(report.missing == (), f"its own weights don't load: {_few(list(report.missing))} are missing")


def _check_gradients(network: nn.Module, backbone: Backbone, side: int) -> None:
    """Each parameter gets a gradient in one of several passes."""
    from ftkit.models.parameter_groups import set_trainable

    set_trainable(network, backbone.groups, set(backbone.group_names))
    without = [name for name, _ in network.named_parameters()]
    for draw in range(DRAWS):
        used: list[str] = []
        with _noting(network, used):
            logits = _backward(network, backbone, side, draw)
        check_order(backbone, used)
        shapes = [tuple(each.shape) for each in logits]
        require(shapes == [(2, CLASSES)] * len(backbone.head), f"while it trains it puts out {shapes}")
        without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
        if not without:
            return
    require(False, f"{_few(without)} get no gradient in {DRAWS} passes", "use them in forward, or don't make them")


def _check_frozen(network: nn.Module, backbone: Backbone, side: int) -> None:
    """With the head alone, its parameters get a gradient in one of several passes, and all else stays as it is."""
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
            require(name not in before or torch.equal(buffer, before[name]), f"{name} moved while it was frozen")
        without = [name for name, _ in network.named_parameters() if head.owns(name) and name not in given]
        if not without:
            return
    require(False, f"with the head alone, {_few(without)} has the wrong gradient: none in {DRAWS} passes")


def _backward(network: nn.Module, backbone: Backbone, side: int, draw: int) -> tuple[Tensor, ...]:
    """What the network puts out for the images of a draw, after a backward pass where there is one to make."""
    import torch

    with seeded(draw):
        logits = _outputs(network, _images(backbone, side, draw))
        loss = _loss(logits)
        if loss.requires_grad:  # a branch may hold no parameter that trains
            torch.autograd.backward(loss)
    return logits


def _images(backbone: Backbone, side: int, draw: int) -> Tensor:
    """Two images of a draw, brighter, darker and flatter than those of the draw before: networks may branch by them."""
    import torch

    mean, spread = (0.0, 1.0, -1.0, 2.0, -2.0)[draw % 5], (1.0, 0.2, 3.0)[draw % 3]
    return torch.randn(2, backbone.preprocessing.channels, side, side) * spread + mean


@contextmanager
def _noting(network: nn.Module, used: list[str]) -> Iterator[None]:
    """Note the names of the layers with parameters as they are used."""

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
