"""The same promises as in test_fuzz.py, on bytes that are chosen by what they reach in our code."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit.testing import make_project
from tests.conftest import MakeFolder
from tests.soak import times
from tests.soak.readers import BASE, RECORD

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(find_spec("atheris") is None, reason="wants atheris: pip install atheris"),
]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> dict[str, tuple[Path, list[Path]]]:
    """By target: a folder to work in, and files to begin with."""
    place = tmp_path_factory.mktemp("guided")
    image_folder(place / "data", {"train": {"a": 8, "b": 8}, "val": {"a": 3, "b": 3}})
    plan: dict[str, Any] = {"backbone": "lenet", "weights": "none", "epochs": 1, "workers": 0}
    dataset = {"name": "folder", "root": str(place / "data")}
    ftkit.train(ftkit.plan(dataset=dataset, output=str(place / "runs"), name="run", **plan))
    run = place / "runs" / "run"
    done = make_project(place, {}).run("init", "project")
    assert done.returncode == 0, done.stderr
    other = Path(shutil.copytree(place / "project", place / "other"))
    archives = [Path(shutil.make_archive(str(place / kind), kind, place / "data" / "val")) for kind in ("zip", "gztar")]
    for name in ("config", "archive"):
        (place / name).mkdir()
    newest = max((run / "checkpoints").glob("e*"))
    return {
        "config": (place / "config", [run / "config.yaml", place / "project" / "ftkit.yaml"]),
        "card": (run / "model", [run / "model" / "model.json"]),
        "state": (run / "checkpoints", [newest / "state.json"]),
        "record": (place / "project", [place / "project" / RECORD]),
        "base": (other, [other / BASE]),
        "archive": (place / "archive", archives),
    }


@pytest.mark.parametrize("target", ["config", "card", "state", "record", "base", "archive"])
def test_bytes_that_reach_new_code(target: str, made: dict[str, tuple[Path, list[Path]]], tmp_path: Path) -> None:
    folder, seeds = made[target]
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for seed in seeds:
        shutil.copy(seed, corpus)
    limits = [f"-runs={times(10_000)}", "-timeout=20", "-max_len=16384", "-rss_limit_mb=4096", "-seed=1"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.soak.guided",
            target,
            str(folder),
            *limits,
            f"-artifact_prefix={tmp_path}/",
            corpus,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
