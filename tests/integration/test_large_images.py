"""Large photographs are read; what is larger than PIL's own limit is refused with the setting that allows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import RunFtkit

SIDE = (12_000, 9_000)
"""108 megapixels, as phones take them: more than PIL warns of, less than it refuses."""


def grey(path: Path, size: tuple[int, int]) -> Path:
    Image.new("1", size, 1).save(path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("large")
    for name in ("a", "b"):
        (root / name).mkdir()
        for number in range(4):
            Image.new("L", (30, 20), number * 40).save(root / name / f"{number}.png")
    grey(root / "a" / "large.png", SIDE)
    return root


TRAIN = ["train", "--backbone", "lenet", "--weights", "none", "--epochs", "1", "--name", "r", "-q"]


def test_108_megapixels_are_trained_on_and_predicted(data: Path, run_ftkit: RunFtkit, tmp_path: Path) -> None:
    done = run_ftkit(*TRAIN, "--data", str(data), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "DecompressionBomb" not in done.stderr
    done = run_ftkit("predict", str(data / "a"), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "DecompressionBomb" not in done.stderr
    assert {Path(json.loads(line)["file"]).name for line in done.stdout.splitlines()} >= {"large.png", "0.png"}


def test_a_limit_of_ones_own(data: Path, run_ftkit: RunFtkit, tmp_path: Path) -> None:
    limit = {"FTKIT_MAX_IMAGE_PIXELS": "100000000", "FTKIT_CACHE_DIR": str(tmp_path / "cache")}
    done = run_ftkit(*TRAIN, "--data", str(data), cwd=tmp_path, env=limit)
    assert done.returncode == 2
    assert "large.png: can't be read: 12000 x 9000 pixels exceed the limit of 100000000" in done.stderr
    assert "FTKIT_MAX_IMAGE_PIXELS" in done.stderr
    done = run_ftkit(*TRAIN, "--data", str(data), cwd=tmp_path, env={"FTKIT_MAX_IMAGE_PIXELS": "many"})
    assert done.returncode == 2
    assert "FTKIT_MAX_IMAGE_PIXELS is 'many' hint: set it to a maximum number of pixels" in " ".join(
        done.stderr.split()
    )


def test_beyond_pils_own_limit(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        huge = grey(tmp_path / "huge.png", (20_000, 9_500))
    script = (
        "import sys, ftkit.data.images as i\n"
        "try: print(i.open_image(sys.argv[1]).size)\n"
        "except i.UnreadableImage as error: print(error)\n"
    )
    assert "set FTKIT_MAX_IMAGE_PIXELS to read larger images" in run_python(script, huge, {})
    assert run_python(script, huge, {"FTKIT_MAX_IMAGE_PIXELS": "200000000"}) == "(20000, 9500)"


def run_python(script: str, file: Path, env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout.strip()
