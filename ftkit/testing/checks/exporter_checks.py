"""The contract of an exporter: the files that it writes give the outputs of the model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ftkit.api import Exporter, FtkitError, Preprocessing
from ftkit.testing.contract import ContractError, require, require_frozen_dataclass
from ftkit.testing.randomness import seeded

if TYPE_CHECKING:
    from torch import nn

CLASSES = 5
PREPROCESSING = Preprocessing(size=32)
IMAGES = 12


def check_exporter(exporter: Exporter) -> None:
    """Export a small convolutional network as `ftkit export` does, and compare its outputs with the exported model's.

    Raises:
        ContractError: The class isn't a frozen dataclass; no file is written, or one outside the folder; the model is
            changed; or for some number of images the logits have another shape, or differ by more than `tolerance`.
        RequestError: The exporter needs a package that isn't installed.
    """
    import torch

    from ftkit.exporting.export_folder import write_export
    from ftkit.exporting.model_export import require_packages
    from ftkit.exporting.parity import random_images, reference_batches
    from ftkit.parts.exporter import TrainedModel

    require_frozen_dataclass(exporter)
    require_packages(exporter, "it")
    with seeded(0), tempfile.TemporaryDirectory() as scratch:
        network = _network()
        model = TrainedModel(network, tuple(f"class {number}" for number in range(CLASSES)), PREPROCESSING)
        batches = reference_batches(model, [random_images(PREPROCESSING, IMAGES)])
        state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        try:
            write_export(Path(scratch, "export"), type(exporter).__name__, exporter, model, batches, {})
        except FtkitError as error:
            raise ContractError(error.message, error.hint) from error
        require(not network.training, "it leaves the model in training mode", "restore the mode")
        changed = [name for name, tensor in network.state_dict().items() if not torch.equal(tensor, state[name])]
        require(not changed, f"it changes the model's {', '.join(changed)}", "export a copy")


def _network() -> nn.Module:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    ).eval()
