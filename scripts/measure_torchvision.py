"""Writes `ftkit/builtin/backbones/torchvision_models.json`, the descriptions of torchvision's networks.

Run it after an upgrade of torchvision: `python scripts/measure_torchvision.py`. It needs no network.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import torchvision
from torchvision import models
from torchvision.transforms import InterpolationMode

from ftkit.builtin.backbones.size_table import row_of
from ftkit.builtin.backbones.torchvision_groups import family_of
from ftkit.builtin.backbones.torchvision_models import TABLE, make_backbone
from ftkit.files.json_text import replace_nonfinite
from ftkit.models.model_size import build_on_meta, measure
from ftkit.parts.backbone import Backbone

_LARGEST_MINIMUM = 600


def main() -> None:
    names = models.list_models(module=models)
    rows = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(facts(name))}" for name in names
    )  # one line per network, for readable diffs
    version = json.dumps(torchvision.__version__.split("+")[0])
    TABLE.write_text(f'{{"torchvision": {version}, "models": {{\n{rows}\n}}}}\n', encoding="utf-8")


def facts(name: str) -> dict[str, Any]:
    """The description of one network."""
    enum = models.get_model_weights(name)
    entries = sorted(enum, key=lambda entry: entry is not enum.DEFAULT)
    row: dict[str, Any] = {"family": family_of(name), "min_size": 1, "fixed_size": False}
    row["weights"] = [weights_facts(entry) for entry in entries]
    backbone = make_backbone(name, row)
    row["fixed_size"] = not works(backbone, 2 * backbone.preprocessing.size)
    row["min_size"] = backbone.preprocessing.size if row["fixed_size"] else smallest(backbone)
    return row | row_of(measure(backbone))


def weights_facts(entry: Any) -> dict[str, Any]:
    """torchvision's metadata of one set of weights."""
    transforms = entry.transforms()
    interpolation = {InterpolationMode.BILINEAR: "bilinear", InterpolationMode.BICUBIC: "bicubic"}
    return {
        "name": entry.name,
        "size": transforms.crop_size[0],
        "resize": transforms.resize_size[0],
        "interpolation": interpolation[transforms.interpolation],
        "mean": list(transforms.mean),
        "std": list(transforms.std),
        "file": entry.url.rsplit("/", 1)[-1],
        "size_mb": entry.meta["_file_size"],
        "top1": replace_nonfinite(entry.meta["_metrics"]["ImageNet-1K"]["acc@1"]),
        "parameters": entry.meta["num_params"],
    }


def works(backbone: Backbone, size: int) -> bool:
    """Whether the network accepts images of `size` pixels in training mode."""
    model = build_on_meta(backbone, 2).train()
    try:
        model(torch.empty(2, 3, size, size, device="meta"))
    except (RuntimeError, ValueError, AssertionError, ZeroDivisionError):
        return False
    return True


def smallest(backbone: Backbone) -> int:
    """The smallest image side in pixels that the network accepts in training mode."""
    return next(size for size in range(1, _LARGEST_MINIMUM) if works(backbone, size))


if __name__ == "__main__":
    main()
