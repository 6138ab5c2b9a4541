"""Layer groups from timm's group matcher, as patterns for names.

timm numbers parameters from the input to the head. ftkit requires each parameter and each layer in exactly one group,
and only the classifier in the last one. Of what timm counts as head, final norms are therefore moved to the last stage,
and hidden layers into a separate group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from timm.models import group_parameters
from torch import nn

from ftkit.api import LayerGroup, RequestError, layer_groups

STEM, HIDDEN, HEAD = "stem", "hidden", "head"
MATCHER = {
    "stem": r"^stem|^patch_embed|^pos_embed|^cls_token",
    "stages": r"^(?:stages|blocks|layers|transformers)\.(\d+)",
}
"""For the few networks of timm without a group matcher."""


@dataclass(frozen=True)
class Layers:
    """The layer groups of a network from the input to the head, and its classifier layers."""

    groups: tuple[LayerGroup, ...]
    head: tuple[str, ...]


def layers_of(model: Any, num_classes: int) -> Layers:
    """Divide a timm model, on any device, into groups.

    Raises:
        RequestError: It has no layer with `num_classes` outputs.
    """
    head = tuple(_classifiers(model, num_classes))
    of_parameter, hidden = _numbered(model, head)
    last = max(of_parameter.values())
    places = {**of_parameter, **_bare_layers(model, of_parameter, last)}
    names = [*_body_names(of_parameter, last - hidden), *[HIDDEN] * hidden, HEAD]
    members = {name: [each for each, place in places.items() if place == n] for n, name in enumerate(names)}
    return Layers(layer_groups(members), head)


def _classifiers(model: Any, num_classes: int) -> Iterator[str]:
    """Names of the layers with one output for each class, in timm's order."""
    if not hasattr(model, "get_classifier"):
        raise RequestError(f"timm's {type(model).__name__} has no classifier", "choose a network with a classifier")
    found = model.get_classifier()
    names = {id(module): name for name, module in model.named_modules()}
    for classifier in found if isinstance(found, tuple | list) else (found,):
        # Some classifiers are a norm and a linear layer, some a small network; its last fitting layer is taken.
        outer = names[id(classifier)]
        fitting = [
            f"{outer}.{name}".strip(".")
            for name, module in classifier.named_modules()
            if isinstance(getattr(module, "weight", None), nn.Parameter) and module.weight.shape[0] == num_classes
        ]
        if not fitting:
            raise RequestError(f"timm's {type(model).__name__} has no classifier of {num_classes} outputs")
        yield fitting[-1]


def _numbered(model: Any, head: tuple[str, ...]) -> tuple[dict[str, int], bool]:
    """The group number of each parameter, from 0 to that of the head, and whether there are hidden layers before it."""
    ordinals: dict[str, int] = group_parameters(model, _matcher(model), reverse=True)
    inside = tuple(f"{layer}." for layer in head)
    body = {name: number for name, number in ordinals.items() if not name.startswith(inside)}
    # timm gives parameters that its matcher doesn't match, usually the classifier, the highest number.
    unknown = max(ordinals[name] for name in ordinals if name.startswith(inside))
    top = max((number for number in body.values() if number != unknown), default=unknown)
    over = [name for name, number in body.items() if number == unknown > top]
    hidden = any(not _is_norm(model, name) for name in over)
    body |= dict.fromkeys(over, top + 1 if hidden else top)
    dense = {number: place for place, number in enumerate(sorted(set(body.values())))}
    return {name: dense[body[name]] if name in body else len(dense) for name in ordinals}, hidden


def _matcher(model: Any) -> Any:
    """timm's patterns for stages, or for blocks where it has none for stages."""
    if not hasattr(model, "group_matcher"):
        return MATCHER
    try:
        return model.group_matcher(coarse=True)
    except AssertionError:
        return model.group_matcher(coarse=False)


def _is_norm(model: nn.Module, parameter: str) -> bool:
    return "Norm" in type(model.get_submodule(parameter.rpartition(".")[0])).__name__


def _bare_layers(model: nn.Module, of_parameter: Mapping[str, int], head: int) -> dict[str, int]:
    """The group of each layer without parameters: that of its block, else that of the layer before it.

    Layers between the last stage and the classifier, such as pooling and dropout, belong to the head.
    """
    found: dict[str, int] = {}
    before = 0
    for name, module in model.named_modules():
        own = [of_parameter[f"{name}.{p}".strip(".")] for p, _ in module.named_parameters(recurse=False)]
        before = own[-1] if own and name else before
        if not name or own or list(module.children()):
            continue
        block = _block_of(name, of_parameter)
        found[f"{name}."] = block if block is not None else head if before == head - 1 else before
    return found


def _block_of(layer: str, of_parameter: Mapping[str, int]) -> int | None:
    """The group of the smallest enclosing module that has parameters, if all of them are in one group."""
    outer = layer
    while "." in outer:
        outer = outer.rpartition(".")[0]
        numbers = {number for name, number in of_parameter.items() if name.startswith(f"{outer}.")}
        if numbers:
            return numbers.pop() if len(numbers) == 1 else None
    return None


def _body_names(of_parameter: Mapping[str, int], count: int) -> Iterator[str]:
    """Names of the groups below the head, from their first parameters: `stem`, `layer1`, `stage1`, `block1`."""
    first: dict[int, str] = {}
    for name, number in of_parameter.items():
        first.setdefault(number, name)
    words = [STEM, *(_word(first[number]) for number in range(1, count))][:count]
    for place, word in enumerate(words):
        yield word if word == STEM else f"{word}{words[: place + 1].count(word)}"


def _word(parameter: str) -> str:
    """`layer` of `layer1.0.conv1.weight`, `stage` of `stages.0.blocks.0.gamma`."""
    found = re.match(r"[A-Za-z_]*[A-Za-z]", parameter)
    return found[0].lower().removesuffix("s") if found else "part"
