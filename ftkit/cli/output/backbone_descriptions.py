"""Backbones and preprocessing, as text and as JSON values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ftkit.cli.output.descriptions import aligned, full_count, short_count
from ftkit.data.lazy_sequence import LazySequence
from ftkit.parts.backbone import Backbone
from ftkit.transforms.preprocessing import Preprocessing


def backbone_json(name: str, backbone: Backbone, plugin: str, build: bool = True) -> dict[str, Any]:
    """The description of a backbone. Parameters exclude the head layers that are replaced for each task.

    Args:
        build: Build the network if its head and layer groups are unknown otherwise; False gives None for these.
    """
    summary = backbone.summary
    is_lazy = not build and any(isinstance(part, LazySequence) for part in (backbone.head, backbone.groups))
    groups = {} if is_lazy else _group_parameters(backbone, build)
    known = [count for count in groups.values() if count is not None]
    return {
        "name": name,
        "plugin": plugin,
        "family": backbone.family,
        "size": default_preprocessing(backbone).size,
        "channels": backbone.preprocessing.channels,
        "min_size": backbone.min_size,
        "fixed_size": backbone.fixed_size and backbone.resized is None,
        "size_step": backbone.size_step,
        "parameters": sum(known) if known else backbone.body_parameters,
        "head": None if is_lazy else list(backbone.head),
        "head_inputs": None if summary is None else list(summary.head_inputs),
        "groups": None if is_lazy else [{"name": g, "parameters": count} for g, count in groups.items()],
        "weights": [
            {
                "name": weights.name,
                "note": weights.note,
                "file": weights.file,
                "size_mb": weights.size_mb,
                "preprocessing": vars(weights.preprocessing),
            }
            for weights in backbone.weights
        ],
    }


def backbone_row(backbone: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of `ftkit backbones list` from a description: name, family, input, parameters, weights."""
    default, *others = backbone["weights"] or [None]
    noted = [] if default is None else [default["name"] + (f" ({default['note']})" if default["note"] else "")]
    weights = ", ".join([*noted, *(other["name"] for other in others)]) or "-"
    size = f"{backbone['size']}{' grey' * (backbone['channels'] == 1)}"
    return backbone["name"], backbone["family"], size, short_count(backbone["parameters"]), weights


def backbone_lines(name: str, backbone: Backbone, origin: str) -> Iterator[str]:
    """Layer groups, preprocessing and weights of a backbone, as lines for `show`."""
    yield f"{name}: family {backbone.family or '-'}, {origin}; images of {backbone.sizes}"
    yield "\nlayer groups, from the input to the head"
    shown = [full_count(count) for count in _group_parameters(backbone, build=True).values()]
    width = max(map(len, shown))
    rows = [(f"  {group}", count.rjust(width)) for group, count in zip(backbone.group_names, shown, strict=True)]
    yield from aligned([("  name", "parameters"), *rows])
    yield f"  plus the head layers ({', '.join(backbone.head)}), sized for the number of classes"
    yield "\nweights, the default first"
    for weights in backbone.weights:
        yield f"  {weights.name}{': ' * bool(weights.note)}{weights.note}"
        yield f"    {preprocessing_text(weights.preprocessing)}"
        if weights.file:
            yield f"    {weights.file}" + (f", {weights.size_mb:.3g} MB" if weights.size_mb else "")
    yield f"  none: {preprocessing_text(backbone.preprocessing)}"


def default_preprocessing(backbone: Backbone) -> Preprocessing:
    """The preprocessing of the default weights, or the backbone's own if it has no weights."""
    return backbone.weights[0].preprocessing if backbone.weights else backbone.preprocessing


def preprocessing_text(pre: Preprocessing) -> str:
    """How an image becomes the network's input, on one line."""
    fit = {
        "crop": f"centre crop of the image resized to {pre.resize}",
        "pad": "padded to a square",
        "stretch": "stretched to a square",
    }[pre.fit]
    numbers = [" ".join(f"{value:.3g}" for value in values) for values in (pre.mean, pre.std)]
    colour = "grey" if pre.channels == 1 else "RGB"
    text = f"{colour} {pre.size} x {pre.size}, {fit}, {pre.interpolation}, mean {numbers[0]}, std {numbers[1]}"
    return text + (f", values of {pre.value_range[0]:g} to {pre.value_range[1]:g}" if pre.value_range else "")


def _group_parameters(backbone: Backbone, build: bool) -> dict[str, int | None]:
    """Parameters by layer group; None where they are unknown without building the network.

    Args:
        build: Build it on the meta device to count them.
    """
    names, summary = backbone.group_names, backbone.summary
    if summary is not None:
        sizes = {name: summary.groups.get(name) for name in names}
        return {name: sum(size.parameters.values()) if size else 0 for name, size in sizes.items()}
    if not build:
        return dict.fromkeys(names)
    from ftkit.models.model_size import group_parameters

    return dict(group_parameters(backbone))
