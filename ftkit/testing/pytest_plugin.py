"""pytest fixtures for authors of plugins, available wherever ftkit is installed.

ftkit is imported only when a test uses a fixture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ftkit.testing.project import Project


@pytest.fixture
def ftkit_project(tmp_path: Path) -> Callable[[Mapping[str, str]], Project]:
    """`ftkit_project({"ftkit.yaml": "...", "mine.py": "..."})` writes files into a folder; `run` runs ftkit there."""
    from ftkit.testing.project import make_project

    return lambda files: make_project(tmp_path / "project", files)


@pytest.fixture
def ftkit_images(tmp_path: Path) -> Callable[..., Path]:
    """`ftkit_images({"ants": 6, "bees": 6})` creates a small folder of images and returns it."""
    from ftkit.testing.sample_images import make_image_folder

    def make(layout: Mapping[str, int | Mapping[str, int]], size: tuple[int, int] = (40, 32)) -> Path:
        return make_image_folder(tmp_path / "images", layout, size)

    return make
