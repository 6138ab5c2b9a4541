"""Fixtures that every test may use: folders of small drawn images, the real data, and `ftkit` as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Protocol

import pytest
from PIL import Image, ImageDraw

# Before torch is imported, and for the processes that tests start: two test processes share the cores, and
# OpenMP's threads spin where there are more of them than cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

Layout = Mapping[str, "int | Mapping[str, int]"]
"""`{"train": {"ants": 6, "bees": 6}, "val": ...}`, or `{"ants": 6, "bees": 6}` without splits."""

COLOURS = ("crimson", "steelblue", "goldenrod", "seagreen", "orchid", "sienna", "darkcyan", "slategray")


class MakeFolder(Protocol):
    def __call__(self, root: Path, layout: Layout, size: tuple[int, int] = (40, 32)) -> Path: ...


class RunFtkit(Protocol):
    def __call__(
        self, *args: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]: ...


def draw(kind: int, size: tuple[int, int], seed: str) -> Image.Image:
    """A noisy picture whose colour and shape tell its kind, so that a network can learn it; RGB."""
    rng = Random(seed)
    noise = Image.frombytes("RGB", size, rng.randbytes(size[0] * size[1] * 3))
    plain = Image.new("RGB", size, "white")
    left, top = rng.randrange(size[0] // 4), rng.randrange(size[1] // 4)
    box = (left, top, left + size[0] * 2 // 3, top + size[1] * 2 // 3)
    brush = ImageDraw.Draw(plain)
    shape = (brush.ellipse, brush.rectangle)[kind % 2]
    shape(box, fill=COLOURS[kind % len(COLOURS)])
    return Image.blend(plain, noise, 0.2)


def fill_classes(folder: Path, classes: Mapping[str, int], kinds: list[str], size: tuple[int, int]) -> None:
    """Write `classes[name]` images into `folder/name`, JPEG and PNG by turns; 0 makes an empty folder."""
    for name, count in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            suffix = ("jpg", "png")[number % 2]
            picture = draw(kinds.index(name), size, f"{folder.name}/{name}/{number}")
            picture.save(folder / name / f"{number:04d}.{suffix}")


@pytest.fixture(scope="session")
def image_folder() -> MakeFolder:
    """Makes a folder of small images whose classes can be learnt, the same every time."""

    def make(root: Path, layout: Layout, size: tuple[int, int] = (40, 32)) -> Path:
        splits = {name: classes for name, classes in layout.items() if not isinstance(classes, int)}
        loose = {name: count for name, count in layout.items() if isinstance(count, int)}
        kinds = sorted({name for classes in splits.values() for name in classes} | set(loose))
        root.mkdir(parents=True, exist_ok=True)
        for split, classes in splits.items():
            (root / split).mkdir(exist_ok=True)
            fill_classes(root / split, classes, kinds, size)
        fill_classes(root, loose, kinds, size)
        return root

    return make


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
