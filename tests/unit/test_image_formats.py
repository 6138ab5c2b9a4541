"""Which files are images, what reads them, and what is said where the package that reads one isn't installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ftkit.api import is_image
from ftkit.data.images import FORMATS, open_with_format, support
from ftkit.data.images.formats import add_reader
from ftkit.testing import draw_image

PICTURE = draw_image(3, (48, 32), "x").convert("RGB")
OPTIONAL = {".heic": "pillow-heif", ".jxl": "pillow-jxl-plugin"}

ALONE = """
import sys
for module in sys.argv[2:]:
    sys.modules[module] = None
from ftkit.data.images import open_image, support, UnreadableImage
try:
    open_image(sys.argv[1])
except UnreadableImage as error:
    print(error)
print(support(sys.argv[1][sys.argv[1].rindex("."):]).status)
"""


def written(path: Path) -> Path:
    """The picture in a format, by an optional package where it takes one."""
    if FORMATS[path.suffix].module is not None and not add_reader(path.suffix):
        pytest.skip(f"{FORMATS[path.suffix].package} isn't installed")
    PICTURE.save(path, quality=95)
    return path


@pytest.mark.parametrize("suffix", [".heic", ".jxl", ".avif", ".jp2", ".webp"])
def test_formats_are_read_by_content(tmp_path: Path, suffix: str) -> None:
    """A phone's HEIC is often called .jpg."""
    path = written(tmp_path / f"a{suffix}")
    assert is_image(path)
    assert support(suffix).status == "readable"
    misnamed = tmp_path / "b.jpg"
    misnamed.write_bytes(path.read_bytes())
    for place in (path, misnamed):
        image, kind = open_with_format(place)
        assert kind in FORMATS[suffix].kinds
        assert np.abs(np.asarray(image).astype(int) - np.asarray(PICTURE)).mean() < 10


@pytest.mark.parametrize("suffix", OPTIONAL)
def test_a_missing_package_is_named(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / f"a{suffix}")
    module = FORMATS[suffix].module
    assert module is not None
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(path), module], capture_output=True, text=True, check=True, timeout=60
    )
    message, status = done.stdout.splitlines()
    assert message.startswith(f"{path}: the content is {suffix[1:].upper()}")
    assert f"pip install 'ftkit[formats]' ({OPTIONAL[suffix]})" in message
    assert status == "missing"


def test_a_package_that_is_there_but_broken_is_named_too(tmp_path: Path) -> None:
    path = written(tmp_path / "a.heic")
    (tmp_path / "pillow_heif.py").write_text("raise ImportError('libheif.so.1: cannot open shared object file')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(path)],
        capture_output=True, text=True, check=True, timeout=60, env=environment,
    )  # fmt: skip
    message, status = done.stdout.splitlines()
    assert "pip install 'ftkit[formats]' (pillow-heif)" in message
    assert status == "missing"


def test_other_names_are_unknown() -> None:
    assert {support(suffix).status for suffix in (".txt", ".cr2", "")} == {"unknown"}
    assert support(".JPG").status == "readable"
