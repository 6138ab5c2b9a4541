"""Fixtures that every test may use: folders of small drawn images, the real data, and `ftkit` as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import pytest

from ftkit.testing.pictures import Layout, make_image_folder

# Before torch is imported, and for the processes that tests start: two test processes share the cores, and
# OpenMP's threads spin where there are more of them than cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


class MakeFolder(Protocol):
    def __call__(self, root: Path, layout: Layout, size: tuple[int, int] = (40, 32)) -> Path: ...


class RunFtkit(Protocol):
    def __call__(
        self, *args: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def image_folder() -> MakeFolder:
    """Makes a folder of small images whose classes can be learnt, the same every time."""

    return make_image_folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights that lies beside the repository on some machines."""
    path = Path(__file__).resolve().parents[2] / "shared"
    if not path.is_dir():
        pytest.skip("../shared isn't there")
    return path


@pytest.fixture(scope="session")
def run_ftkit() -> RunFtkit:
    """Runs `ftkit` in a process of its own, without the settings of the shell that runs the tests."""

    def run(
        *args: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("FTKIT_")}
        return subprocess.run(
            [sys.executable, "-m", "ftkit", *args],
            cwd=cwd,
            env=clean | dict(env or {}),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run
