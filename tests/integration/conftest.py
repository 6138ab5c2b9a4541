"""Image folders, and runs on them, that are made once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MakeFolder
from tests.multilabel import trained, write_digits
from tests.searches import FEW


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and `digits.csv`; each has no label to four."""
    return write_digits(tmp_path_factory.mktemp("multilabel"))


@pytest.fixture(scope="session")
def digits_run(digits: Path) -> Path:
    """A finished run with a probe, an epoch of the head, and one of all layers."""
    return trained(digits, digits / "runs", "run", probe=True)


@pytest.fixture(scope="session")
def few_images(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    """A folder with few training images, without a validation split."""
    return image_folder(tmp_path_factory.mktemp("few"), {"train": FEW, "test": dict.fromkeys(FEW, 2)})
