"""Image classifiers of transformers as backbones; groups, head and preprocessing come from their configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from ftkit.api import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    FtkitError,
    Interpolation,
    LayerGroup,
    LazySequence,
    Preprocessing,
    Pretrained,
    RequestError,
    layer_groups,
)
from ftkit_hf.hub import hub_errors
from ftkit_hf.hub_cache import cached_configs

CLASSES = 7
"""Outputs of the network that is built to find its classifier."""
FREE = frozenset({
    "bit", "convnext", "convnextv2", "dinov2", "dinov2_with_registers", "efficientnet", "focalnet", "hgnet_v2",
    "mobilenet_v1", "mobilenet_v2", "mobilevit", "mobilevitv2", "poolformer", "pp_lcnet", "pvt_v2", "regnet", "resnet",
    "segformer", "swiftformer", "swin", "swinv2", "textnet",
})  # fmt: skip
"""Model types that accept images of any size; the others have a fixed size."""
OTHER_INPUT = {
    "imagegpt": "a sequence of colours",
    "shieldgemma2": "a text beside the image",
    "siglip2": "patches of images with a mask",
}
"""Model types that are listed as image classifiers but take another input, with that input."""
_FILTERS: Mapping[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
PREFIX = "model."
"""Prefix of the parameter names in `Classifier`, before the names of transformers."""


class Classifier(nn.Module):
    """A transformers network that takes `(batch, channels, size, size)` and returns logits alone.

    For a distilled network with two heads, they are the mean of both, as in transformers.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.model(pixel_values=images)
        # PP-LCNet returns its logits as `last_hidden_state`.
        logits: Tensor = outputs.logits if hasattr(outputs, "logits") else outputs.last_hidden_state
        return logits


def backbone(name: str) -> Backbone:
    """The backbone of a repository or a folder.

    Raises:
        RequestError: It isn't an image classifier of transformers.
        FtkitError: Its configuration isn't available.
    """
    config = _config(name)
    if config.model_type not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        raise RequestError(f"hf/{name} is a {config.model_type}, which transformers has no image classifier for")
    if config.model_type in OTHER_INPUT:
        raise RequestError(
            f"hf/{name} is a {config.model_type}, which takes {OTHER_INPUT[config.model_type]}, not images alone",
            "choose another network",
        )
    if config.model_type == "timm_wrapper":
        raise RequestError(f"hf/{name} is timm's {config.architecture}", f"use --backbone timm/{config.architecture}")
    expected = preprocessing(name, config)
    return Backbone(
        name=f"hf/{name}",
        groups=LazySequence(lambda: _groups(name)[0]),
        head=LazySequence(lambda: _groups(name)[1]),
        build=partial(_build, name),
        preprocessing=expected,
        weights=(Pretrained("pretrained", partial(_load, name), expected, name, note=config.model_type),),
        family=config.model_type,
        min_size=min(32, expected.size),
        fixed_size=config.model_type not in FREE,
        size_step=int(getattr(config, "patch_size", 1) or 1) if config.model_type.startswith("dinov2") else 1,
    )


def classifiers() -> Iterator[str]:
    """Repositories in the hub's cache whose configuration is that of an image classifier."""
    for repository, config in cached_configs():
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        if kind in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
            yield repository


def preprocessing(name: str, config: PretrainedConfig) -> Preprocessing:
    """The preprocessing in `preprocessor_config.json`; by default that of ImageNet."""
    facts = _facts(name)
    own = getattr(config, "image_size", None) or 224
    size, crop = facts.get("size", own), facts.get("crop_size")
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else size
    side = size.get("height") if isinstance(size, Mapping) else None
    fit: Any = "crop"
    if facts.get("do_center_crop", crop is not None) and crop:
        target = crop["height"] if isinstance(crop, Mapping) else crop
        share = target / (shortest or side or target)
    elif shortest and facts.get("crop_pct"):
        target, share = shortest, facts["crop_pct"] if shortest < 384 else 1.0
    else:
        target, share, fit = side or shortest or own, 1.0, "stretch" if side else "crop"
    return Preprocessing(
        size=int(target),
        crop_pct=min(1.0, share),
        interpolation=_FILTERS.get(facts.get("resample", 2), "bilinear"),
        mean=tuple(facts.get("image_mean") or IMAGENET_MEAN),
        std=tuple(facts.get("image_std") or IMAGENET_STD),
        fit=fit,
    )


@cache
def _config(name: str) -> PretrainedConfig:
    with hub_errors(f"hf/{name}: its configuration isn't available", _hint(name)):
        return AutoConfig.from_pretrained(name, trust_remote_code=False)


def _facts(name: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    file = Path(name, "preprocessor_config.json")
    if not Path(name).is_dir():
        try:
            file = Path(hf_hub_download(name, file.name))
        except (EntryNotFoundError, OSError):
            return {}
    facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return facts


def _build(name: str, num_classes: int) -> nn.Module:
    """Build the network with random weights.

    Raises:
        RequestError: transformers can't build it, since a package is missing or the configuration is invalid.
    """
    try:
        config = type(_config(name)).from_dict({**_config(name).to_dict(), "num_labels": num_classes})
        # transformers iterates over the architectures, which are None where the configuration has none.
        config.architectures = config.architectures or []
        return Classifier(AutoModelForImageClassification.from_config(config, trust_remote_code=False))
    except Exception as error:  # the type depends on the network
        reason = " ".join(str(error).split())[:300]
        raise RequestError(
            f"hf/{name}: transformers can't build this {_config(name).model_type}: {type(error).__name__}: {reason}",
            "install what it names, or choose another network",
        ) from error


def _load(name: str) -> Mapping[str, Tensor]:
    """The state dict of the repository's weights; only safetensors are read, since a pickle may run code.

    Tensors that the file lacks, which transformers initialises at random, are left out: ftkit decides whether they may
    be missing.
    """
    with hub_errors(f"hf/{name}: its weights aren't available", _hint(name)):
        model, info = AutoModelForImageClassification.from_pretrained(
            name, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    drawn = {str(key) for key in info["missing_keys"]} | {str(key[0]) for key in info["mismatched_keys"]}
    return {f"{PREFIX}{key}": value for key, value in model.state_dict().items() if key not in drawn}


def _hint(name: str) -> str:
    return f"run `hf download {name}` on a machine with a network and copy its cache here (HF_HOME), or give a folder"


@cache
def _groups(name: str) -> tuple[tuple[LayerGroup, ...], tuple[str, ...]]:
    """Layer groups by stage or block, and the names of the classifier layers; distilled networks have two."""
    with torch.device("meta"):
        model = _build(name, CLASSES)
    layers = {n: m for n, m in model.named_modules() if not list(m.children())}
    linear = [n for n, m in layers.items() if isinstance(m, nn.Linear | nn.Conv2d) and m.weight.shape[0] == CLASSES]
    blocks = next((n for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 1), None)
    if blocks is None:
        raise FtkitError(
            f"hf/{name}: its layers aren't a list that can be divided into groups", "choose another network"
        )
    # A layer of a block may have the same number of outputs.
    heads = tuple(n for n in linear if not n.startswith(f"{blocks}."))
    if not heads:
        raise FtkitError(f"hf/{name}: no layer with an output for each class was found", "choose another network")
    owners = _owners(list(dict(model.named_parameters())), list(layers), blocks, heads)
    count = max(place for place in owners.values() if place is not None)
    word = "stage" if "stage" in blocks else "block"
    names = ["stem", *(f"{word}{number}" for number in range(1, count + 1)), "head"]
    places = {name: None if name == "head" else place for place, name in enumerate(names)}
    members = {name: [each for each, owner in owners.items() if owner == place] for name, place in places.items()}
    return layer_groups(members), heads


def _owners(parameters: list[str], layers: list[str], blocks: str, heads: tuple[str, ...]) -> dict[str, int | None]:
    """The group number of each parameter, and of each layer (with a trailing dot); None for the head."""
    numbered = re.compile(rf"{re.escape(blocks)}\.(\d+)\.")
    found: dict[str, int | None] = {}
    last = max(int(match[1]) for name in parameters if (match := numbered.match(name))) + 1
    for names, dot in ((layers, "."), (parameters, "")):
        place = 0
        for name in names:
            match = numbered.match(f"{name}{dot}")
            place = int(match[1]) + 1 if match else last if place else 0
            in_head = any(name.startswith(f"{head}.") or name == head for head in heads)
            found[f"{name}{dot}"] = None if in_head else place
    return found
