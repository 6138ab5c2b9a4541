"""The device of the tests, images to train on, and what a run's steps do."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from ftkit.training.trainer import Trainer
from tests.conftest import MakeFolder

DEVICE = os.environ.get("FTKIT_TEST_DEVICE", "cuda")
"""`FTKIT_TEST_DEVICE=cpu` runs what these tests do on a CPU, to find mistakes in them where there is no GPU."""
NETWORK, SIZE = ("resnet18", 64) if DEVICE == "cuda" else ("cifar_resnet20", 32)
WARM_UP = 2
"""First steps of a run that may wait for the device, while libraries initialise."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skipped = pytest.mark.skip(reason="needs a GPU: CUDA isn't available (FTKIT_TEST_DEVICE=cpu runs it on the CPU)")
    for item in items:
        if "tests/gpu/" in item.path.as_posix():
            item.add_marker(pytest.mark.gpu)
            if DEVICE == "cuda" and not torch.cuda.is_available():
                item.add_marker(skipped)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    few = 12 if DEVICE == "cpu" else 96
    layout = {"train": {"a": few, "b": few}, "val": {"a": few // 3, "b": few // 3}}
    return image_folder(tmp_path_factory.mktemp("gpu") / "photos", layout, (80, 72))


@pytest.fixture
def settings(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The settings of a short run; its caches are the test's own."""
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))
    return {
        "dataset": {"name": "folder", "root": str(photos)},
        "backbone": NETWORK,
        "weights": "none",
        "probe": False,
        "strategy": "full",
        "epochs": 2,
        "batch_size": 16 if DEVICE == "cuda" else 4,
        "workers": 2 if DEVICE == "cuda" else 0,
        "augment": "light",
        "preprocessing": {"size": SIZE},
        "precision": "fp32",
        "device": DEVICE,
        "output": str(tmp_path / "runs"),
    }


class Steps:
    """What the steps of runs did, after the first ones.

    Attributes:
        taken: Number of steps.
        waits: Messages of torch about operations that wait for the device.
        stop_at: The step in which the process sends itself SIGTERM.
    """

    stop_at: int | None = None

    def __init__(self) -> None:
        self.taken = 0
        self.waits: list[str] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        self.taken += 1
        if self.taken == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        mode = "warn" if DEVICE == "cuda" and self.taken > WARM_UP else "default"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if DEVICE == "cuda":
                torch.cuda.set_sync_debug_mode(mode)
            try:
                yield
            finally:
                if DEVICE == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
        self.waits += [f"{w.filename}:{w.lineno}: {w.message}" for w in caught if "synchroniz" in str(w.message)]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Watches each step, the reading of its batch included."""
    found, original = Steps(), Trainer.train_step

    def watched(self: Trainer, *args: Any) -> bool:
        with found.watched():
            return original(self, *args)

    monkeypatch.setattr(Trainer, "train_step", watched)
    return found
