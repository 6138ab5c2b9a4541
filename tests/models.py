"""Parts by name, and model folders as a training leaves them, without a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import ftkit
from ftkit.api import Backbone, Preprocessing
from ftkit.models.bundle import backbone_id, save_bundle
from ftkit.plugins import Registry
from ftkit.runs.model_card import ModelCard
from ftkit.uncertainty.calibration import Calibration

REGISTRY = Registry()
__all__ = ["REGISTRY", "Calibration", "Registry", "backbone", "make_run", "part", "parts", "save_model"]


def part(kind: str, name: str) -> Any:
    """A registered part: `part("losses", "focal")`."""
    return REGISTRY.catalogs[kind].get(name)


def parts(kind: str) -> dict[str, Any]:
    """All built-in parts of a kind by name."""
    return {name: part(kind, name) for name in REGISTRY.catalogs[kind]}


def backbone(name: str) -> Backbone:
    return REGISTRY.backbones.get(name)


def save_model(
    folder: Path,
    classes: Sequence[str],
    name: str = "cifar_resnet20",
    network: nn.Module | None = None,
    preprocessing: Preprocessing | None = None,
    plugins: Sequence[Path] = (),
    **card: Any,
) -> Path:
    """Save a model of a backbone.

    Args:
        network: Its network; by default a new one with random weights, always the same.
        plugins: Modules of plugins, one of which may have the backbone.
        card: Further fields of the model card.
    """
    registry = Registry(plugins) if plugins else REGISTRY
    described = registry.backbones.get(name)
    if network is None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = described.build(len(classes))
    kept = preprocessing or described.preprocessing
    save_bundle(folder, network, ModelCard(tuple(classes), kept, backbone_id(registry, name), **card))
    return folder


def make_run(folder: Path, data: Path, classes: Sequence[str]) -> Path:
    """A run folder whose model predicts the first class for every image, and ranks classes in order."""
    model = backbone("cifar_resnet20").build(len(classes))
    head = cast(nn.Linear, model.get_submodule("linear"))
    nn.init.zeros_(head.weight)
    head.bias.data = torch.linspace(1, 0, len(classes))
    folder.mkdir(parents=True)
    config = f"dataset:\n  name: folder\n  root: {data}\nbackbone: cifar_resnet20\nweights: none\nepochs: 1\n"
    (folder / "config.yaml").write_text(config + "strategy: full\n")
    fingerprint = ftkit.plan(folder / "config.yaml").splits.fingerprint()
    save_model(folder / "model", classes, network=model, fingerprint=fingerprint)
    return folder
