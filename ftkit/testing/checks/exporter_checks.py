"""The contract of an exporter: the files that it writes give the outputs of the model."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ftkit.api import Exporter, Preprocessing, TrainedModel
from ftkit.testing.contract import require, require_frozen_dataclass
from ftkit.testing.randomness import seeded

if TYPE_CHECKING:
    from torch import Tensor, nn

CLASSES = 5
SIDE = 32
SIZES = (2, 1, 5)
"""Images in a batch: of the one that is traced, and of others."""


def check_exporter(exporter: Exporter) -> None:
    """Export a small convolutional network, and compare its outputs with those of the exported files.

    Raises:
        ContractError: The class isn't a frozen dataclass; no file is written, or one outside the folder; the model is
            changed; or for some number of images the logits have another shape or type, or differ by more than
            `tolerance`.
        RequestError: The exporter needs a package that isn't installed.
    """
    import torch

    from ftkit.exporting.model_export import require_packages

    require_frozen_dataclass(exporter)
    require_packages(exporter, type(exporter).__name__)
    with seeded(0), tempfile.TemporaryDirectory() as scratch:
        model, folder = _network(), Path(scratch, "export")
        folder.mkdir()
        batches = [torch.randn(size, 3, SIDE, SIDE) for size in SIZES]
        with torch.inference_mode():
            expected = [model(images) for images in batches]
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        trained = TrainedModel(model, tuple(map(str, range(CLASSES))), Preprocessing(size=SIDE))
        _check_files(exporter.export(trained, batches[0], folder), folder)
        require(not model.training, "it leaves the model in training mode", "restore the mode")
        changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])]
        require(not changed, f"it changes the model's {', '.join(changed)}", "export a copy")
        exported = exporter.load(folder)
        for images, logits in zip(batches, expected, strict=True):
            _compare(exporter, exported(images), logits)


def _check_files(files: Sequence[Path], folder: Path) -> None:
    require(bool(files), "it returns no files", "return the paths of the files that were written")
    for file in files:
        inside = Path(file).resolve().is_relative_to(folder.resolve())
        require(inside, f"it writes {file}, which is not in the given folder")
        require(
            Path(file).exists() and Path(file).stat().st_size > 0, f"it returns {file}, which is not there or empty"
        )


def _compare(exporter: Exporter, found: Tensor, expected: Tensor) -> None:
    import torch

    where = f"for {len(expected)} images"
    require(isinstance(found, torch.Tensor), f"{where} the exported model returns {type(found).__name__}, not a tensor")
    shape = tuple(found.shape)
    require(shape == tuple(expected.shape), f"{where} its logits have shape {shape}, not {tuple(expected.shape)}")
    require(found.dtype == torch.float32, f"{where} its logits are {found.dtype}, not float32")
    difference = float((found - expected).detach().abs().max())
    close = difference <= exporter.tolerance
    require(close, f"{where} its logits differ by {difference:.3g}, more than the tolerance of {exporter.tolerance:g}")


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
