"""Backbone descriptions of timm models, from timm's configurations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any, get_args

import timm
from timm.models import PretrainedCfg

from ftkit.api import Backbone, Interpolation, LazySequence, Preprocessing, Pretrained, RequestError
from ftkit_timm.groups import Layers, layers_of
from ftkit_timm.hub import read_weights
from ftkit_timm.parameters import parameters_of

if TYPE_CHECKING:
    from torch import Tensor, nn

SMALLEST = 32
"""Smallest image side in pixels for models that declare none; most halve the size five times."""
CLASSES = 7
"""Outputs of the network that is built to find its classifier; few other layers have this number."""
_FITS = {"center": "crop", "squash": "stretch", "border": "pad"}


def is_known(name: str) -> bool:
    """Whether timm has the architecture and, if the name has a tag, weights with that tag."""
    architecture, _, tag = name.partition(".")
    return timm.is_model(architecture) and (not tag or tag in tags(architecture))


def backbone(name: str, size: int | None = None) -> Backbone:
    """The backbone for a name of timm: an architecture, or an architecture with the tag of its default weights.

    Args:
        size: Image size in pixels for networks with a fixed size; by default timm's.
    """
    architecture, _, tag = name.partition(".")
    known = tags(architecture)
    ordered = [tag, *(other for other in known if other != tag)] if tag else known
    config = timm.get_pretrained_cfg(name) or PretrainedCfg()
    is_default = size is None and name == architecture  # position embeddings depend on the size of images
    if size is None and config.fixed_input_size:
        size = config.input_size[-1]
    layers = partial(_layers, architecture, size)
    return Backbone(
        name=f"timm/{name}",
        groups=LazySequence(lambda: layers().groups),
        head=LazySequence(lambda: layers().head),
        build=partial(build, architecture, size),
        preprocessing=preprocessing(config, size),
        weights=tuple(_pretrained(architecture, tag, size) for tag in ordered),
        family=timm.model_entrypoint(architecture).__module__.rpartition(".")[2],
        min_size=config.min_input_size[-1] if config.min_input_size else min(SMALLEST, config.input_size[-1]),
        fixed_size=config.fixed_input_size,
        resized=partial(backbone, name) if config.fixed_input_size else None,
        aux_weight=1.0,
        parameters=parameters_of(architecture) if is_default else None,
    )


@cache
def tags(architecture: str) -> list[str]:
    """The tags of an architecture's weights, with timm's default first."""
    found = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    default = timm.get_pretrained_cfg(architecture)
    first = default.tag if default is not None else None
    return sorted(found, key=lambda tag: tag != first)


def preprocessing(config: PretrainedCfg, size: int | None = None) -> Preprocessing:
    """The preprocessing of a pretrained configuration.

    timm rounds the side before the centre crop down, and ftkit rounds it to the nearest integer, so `crop_pct` is
    computed from timm's number of pixels.
    """
    size = size or config.input_size[-1]
    channels = config.input_size[0]
    return Preprocessing(
        size=size,
        crop_pct=size / math.floor(size / config.crop_pct) if config.crop_pct <= 1 else 1.0,
        interpolation=config.interpolation if config.interpolation in get_args(Interpolation) else "bicubic",
        mean=tuple(config.mean)[:channels],
        std=tuple(config.std)[:channels],
        fit=_FITS[config.crop_mode],  # type: ignore[arg-type]
    )


def build(architecture: str, size: int | None, num_classes: int) -> nn.Module:
    """Build a network with random weights.

    Raises:
        RequestError: The network doesn't support images of that size.
    """
    try:
        return _create(architecture, size, num_classes)
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        if size is None:
            raise
        # timm doesn't list the sizes that a network supports.
        why = " ".join(str(error).split())
        raise RequestError(
            f"timm/{architecture} doesn't support images of {size} pixels: {why}", "give another size"
        ) from None


def _create(architecture: str, size: int | None, num_classes: int) -> nn.Module:
    options = {} if size is None else {"img_size": size}
    model: nn.Module = timm.create_model(architecture, num_classes=num_classes, **options)
    set_distilled: Any = getattr(model, "set_distilled_training", None)
    if set_distilled is not None:
        set_distilled(True)  # in training, return the logits of both heads, as ftkit's auxiliary classifiers
    return model


def _pretrained(architecture: str, tag: str, size: int | None) -> Pretrained:
    name = f"{architecture}.{tag}"
    config = timm.get_pretrained_cfg(name)
    licence = f", licence {config.license}" if config.license else ""
    return Pretrained(
        name=tag,
        load=partial(_load, name, size),
        preprocessing=preprocessing(config, size),
        file=config.hf_hub_id or "",
        note=f"{config.num_classes or 'no'} classes{licence}",
    )


def _load(name: str, size: int | None) -> Mapping[str, Tensor]:
    return read_weights(name, {} if size is None else {"img_size": size})


@cache
def _layers(architecture: str, size: int | None) -> Layers:
    import torch

    try:
        with torch.device("meta"):
            return layers_of(_create(architecture, size, CLASSES), CLASSES)
    except (RuntimeError, NotImplementedError):
        # Some networks run a forward pass in their constructor, which fails with meta tensors.
        with torch.random.fork_rng(devices=[]):
            return layers_of(build(architecture, size, CLASSES), CLASSES)
