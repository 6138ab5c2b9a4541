"""Whether there is a GPU, asked of a driver that tests imitate."""

from __future__ import annotations

import ctypes
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from ftkit.models.compute import cuda_driver


class Driver:
    """The functions of a driver's library.

    Attributes:
        version: The newest version of CUDA that it supports, as it gives it: 13020 for 13.2.
    """

    def __init__(self, gpus: int, version: int, failure: int = 0) -> None:
        self.gpus, self.version, self.failure = gpus, version, failure

    def cuInit(self, flags: int) -> int:  # noqa: N802 - the name of the driver
        return self.failure

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.gpus
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = self.version
        return 0


def pretend(patch: pytest.MonkeyPatch, folder: Path, cuda: str, driver: Driver | None) -> None:
    """A torch that is built for a version of CUDA, and a driver or none."""
    (folder / "version.py").write_text(
        f"__version__ = '9.9'\ncuda: Optional[str] = {cuda}\nhip: Optional[str] = '7.1'\n"
    )
    spec = ModuleSpec("torch", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    patch.setattr(cuda_driver, "find_spec", {"torch": spec}.get)

    def load(name: str) -> Driver:
        if driver is None:
            raise OSError(name)
        return driver

    patch.setattr(ctypes, "CDLL", load)


@pytest.mark.parametrize(
    ("cuda", "driver", "expected"),
    [
        ("'13.2'", Driver(1, 13000), True),
        ("'12.8'", Driver(8, 13020), True),
        ("'13.2'", Driver(1, 12080), False),
        ("'13.2'", Driver(0, 13020), False),
        ("'13.2'", Driver(1, 13020, failure=100), False),
        ("'13.2'", None, False),
        ("None", Driver(1, 13020), False),
    ],
    ids=["gpu", "newer driver", "older driver", "no gpu", "driver fails", "no driver", "torch for cpus"],
)
def test_a_gpu_counts_if_torch_and_driver_can_use_it(
    cuda: str, driver: Driver | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path, cuda, driver)
    assert cuda_driver.has_cuda() is expected


def test_without_torch_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "find_spec", lambda name: None)
    assert not cuda_driver.has_cuda()


def test_it_agrees_with_torch_here() -> None:
    import torch

    assert cuda_driver.has_cuda() == torch.cuda.is_available()
