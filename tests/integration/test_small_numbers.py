"""Any data trains, whatever parts it fills: fewer images than a step has parts, one image to validate on, and so on."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ftkit
from tests.conftest import MakeFolder

PLUGIN = r'''
from collections.abc import Mapping
from ftkit.api import Backbone, LayerGroup, Preprocessing, hookimpl

def build(num_classes):
    from torch import nn

    class Net(nn.Module):
        """Doesn't take a batch of no image."""

        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 8, stride=8)
            self.middle = nn.Linear(64, 8)
            self.head = nn.Linear(8, num_classes)

        def forward(self, x):
            return self.head(self.middle(self.stem(x).relu().reshape(x.shape[0], -1)).relu())

    return Net()

@hookimpl
def ftkit_backbones() -> Mapping[str, Backbone]:
    groups = tuple(LayerGroup(name, rf"{name}\.") for name in ("stem", "middle", "head"))
    return {"net": Backbone("own/net", groups, ("head",), build, Preprocessing(size=32, crop_pct=1.0), fixed_size=True)}
'''
STRATEGIES: tuple[Any, ...] = ("freeze", {"name": "gradual", "every": 1}, "full")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_folder: MakeFolder) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))
    image_folder(tmp_path / "data", {"train": {"a": 5, "b": 4}, "val": {"a": 1}}, (32, 32))
    Path("ftkit.yaml").write_text("plugins: [./own.py]\ndataset: {name: folder, root: data}\nbackbone: own/net\n")
    Path("own.py").write_text(PLUGIN)


def trained(number: int, **settings: Any) -> list[dict[str, Any]]:
    common: dict[str, Any] = {"weights": "none", "epochs": 3, "workers": 0, "precision": "fp32", "name": f"run{number}"}
    outcome = ftkit.train(ftkit.plan(**(common | settings)))
    return [{k: v for k, v in record.items() if k not in ("seconds", "weight_drift")} for record in outcome.records]


FEW = ((1, 7), (2, 3), (64, 100))
MANY = tuple(itertools.product((1, 2, 3, 64), (1, 2, 7, 100)))


@pytest.mark.parametrize("sizes", [FEW, pytest.param(MANY, marks=pytest.mark.long)], ids=("few", "many"))
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_any_batch_size_and_accumulation(strategy: Any, sizes: tuple[tuple[int, int], ...]) -> None:
    for number, (size, parts) in enumerate(sizes):
        records = trained(number, strategy=strategy, batch_size=size, accumulate=parts)
        assert len(records) == 3, (size, parts)
        assert all(0 < record["train_loss"] < 10 for record in records)


@pytest.mark.parametrize("augment", ["none", "light"])
def test_empty_parts_change_nothing(augment: str) -> None:
    """9 images in steps of 7 at most: 5 and 4. What a step sees is the same, however it is cut."""
    parts = trained(1, strategy="freeze", augment=augment, batch_size=1, accumulate=7)
    whole = trained(2, strategy="freeze", augment=augment, batch_size=7, accumulate=1)
    for one, other in zip(parts, whole, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=1e-5)
        assert one["val_loss"] == pytest.approx(other["val_loss"], abs=1e-5)


@pytest.mark.parametrize("images", [(1, 1), (2, 1)])
def test_very_few_images(images: tuple[int, int], tmp_path: Path, image_folder: MakeFolder) -> None:
    counts = dict(zip("ab", images, strict=True))
    image_folder(tmp_path / "few", {"train": counts, "val": {"b": 1}}, (32, 32))
    few = {"name": "folder", "root": str(tmp_path / "few")}
    for number, (strategy, size, parts) in enumerate(itertools.product(STRATEGIES[:2], (1, 64), (7,))):
        records = trained(number, dataset=few, strategy=strategy, batch_size=size, accumulate=parts)
        assert len(records) == 3


def test_classes_drawn_by_weight_and_more_cached_augmentations(tmp_path: Path) -> None:
    for number, (size, parts) in enumerate(((1, 7), (2, 3), (1, 100))):
        settings: dict[str, Any] = {"cache": {"augmentations": 3}, "balance": "sampler", "augment": "light"}
        assert trained(number, strategy="freeze", batch_size=size, accumulate=parts, epochs=4, **settings)


@pytest.mark.long
@pytest.mark.parametrize("cache", ["--cached-augmentations=2", "--no-cache"])
def test_more_processes_than_images(cache: str, tmp_path: Path, image_folder: MakeFolder) -> None:
    image_folder(tmp_path / "few", {"train": {"a": 2, "b": 1}, "val": {"b": 1}}, (32, 32))
    line = ("train", "--data", "few", "--strategy", "gradual", "--set", "strategy.every=1", "--weights", "none")
    flags = ("--epochs", "3", "--batch-size", "1", "--accumulate", "2", "--workers", "0", "--augment", "light")
    found = {}
    for processes in ("1", "4"):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "ftkit",
                *line,
                *flags,
                cache,
                "-q",
                "--num-processes",
                processes,
                "--device",
                "cpu",
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        found[processes] = done.stdout
    assert "best epoch" in found["4"]
