"""Parameters and activations of a plan, computed from the backbone's summary."""

from __future__ import annotations

from collections.abc import Mapping

from ftkit.parts.backbone import ROLES, Backbone, Head, LayerGroup, Role
from ftkit.strategies.schedule import Phase


def count_parameters(
    backbone: Backbone, groups: tuple[LayerGroup, ...], num_classes: int, head: Head, channels: int
) -> dict[str, int] | None:
    """Parameters by layer group from the backbone's summary; None if they can't be computed from it.

    The summary has counts by group and role of the backbone. Groups that divide those otherwise, such as name prefixes,
    can be counted on the model only.

    Args:
        channels: Channels of the images; with fewer than the backbone's, the first convolution has fewer weights.
    """
    summary = backbone.summary
    whole = {g.pattern for g in backbone.groups} | {".*"}
    fewer = backbone.preprocessing.channels - channels
    if summary is None or (fewer and not summary.input_weights) or any(g.pattern not in whole for g in groups):
        return None
    counts = dict.fromkeys((g.name for g in groups), 0)
    for own in backbone.groups:
        size = summary.groups.get(own.name)
        by_role = {role: size.parameters.get(role, 0) if size else 0 for role in ROLES}
        if own == backbone.groups[0]:
            by_role["weight"] -= fewer * summary.input_weights
        if own == backbone.groups[-1]:
            for role, number in _of_head(backbone, num_classes, head).items():
                by_role[role] += number
        for role, number in by_role.items():
            owner = next(g for g in reversed(groups) if role in g.roles and g.pattern in (own.pattern, ".*"))
            counts[owner.name] += number
    return counts


def _of_head(backbone: Backbone, num_classes: int, head: Head) -> Mapping[Role, int]:
    """Parameters of the classifier and of auxiliary classifiers, which are always linear."""
    assert backbone.summary is not None
    inputs = list(backbone.summary.head_inputs)
    hidden = {"weight": 0, "bias": 0}
    if head.hidden is not None:
        hidden = {"weight": inputs[0] * head.hidden, "bias": head.hidden}
        inputs[0] = head.hidden
    return {
        "weight": hidden["weight"] + sum(inputs) * num_classes,
        "bias": hidden["bias"] + len(inputs) * num_classes * backbone.summary.head_bias,
    }


def kept_activations(backbone: Backbone, groups: tuple[LayerGroup, ...], phase: Phase) -> int:
    """Activations, in elements, that a phase keeps for the backward pass of one image of the backbone's default size.

    Layers below the first trainable group keep none, since no gradient reaches them.
    """
    assert backbone.summary is not None
    sizes = backbone.summary.groups
    lowest = 0
    if groups == backbone.groups:
        lowest = min(i for i, g in enumerate(groups) if g.name in phase.trainable)
    return sum(sizes[g.name].activations for g in backbone.groups[lowest:] if g.name in sizes)
