"""Datasets of several shards: their patterns, planning without torch, and indexing in several processes."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from ftkit_webdataset.dataset import Shards
from ftkit_webdataset.index import index_in_parallel, index_of
from ftkit_webdataset.places import stamp
from PIL import Image

from ftkit.api import RequestError


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder."""
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    """Five shards of 12 images each."""
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for number in range(12):
            file = io.BytesIO()
            Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(file, "PNG")
            for name, content in ((f"{number}.png", file.getvalue()), (f"{number}.cls", b"%d" % (number % 2))):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return [str(tmp_path / "train-0.tar")] + [
        str(shutil.copy(tmp_path / "train-0.tar", tmp_path / f"train-{number}.tar")) for number in range(1, 5)
    ]


def test_patterns_name_several_shards(places: list[str], tmp_path: Path) -> None:
    for pattern in (f"{tmp_path}/train-{{0..2}}.tar", "::".join(places[:3])):
        train = Shards(pattern).load().train
        assert train is not None
        assert len(train) == 36
    with pytest.raises(RequestError, match=r"dataset\.train: .*close each brace"):
        Shards(f"{tmp_path}/train-{{0.tar").load()


def test_planning_imports_no_torch(places: list[str], tmp_path: Path) -> None:
    program = """
import sys
from ftkit.cli.main import main
sys.exit(main(sys.argv[1:]) or ("torch was imported" if "torch" in sys.modules else 0))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "plan", "--dataset", "webdataset/shards", "--set", f"dataset.train={places[0]}",
         "--backbone", "lenet", "--weights", "none", "--strategy", "scratch"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 classes" in done.stdout


def test_large_shards_are_indexed_by_several_processes(
    places: list[str], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(places[4]).write_bytes(b"no archive" * 100)
    monkeypatch.setattr("ftkit_webdataset.index.available_cores", lambda: 3)
    stamps = [stamp(place) for place in places]
    index_in_parallel(places, stamps)
    assert not kept.exists(), "these are small"
    with monkeypatch.context() as patch:
        patch.setattr("ftkit_webdataset.index.LARGE", 1)
        patch.setattr("ftkit_webdataset.index.scan", None)
        index_in_parallel(places, stamps)
        assert len(list(kept.rglob("*.json"))) == 4
        found = [index_of(place, one) for place, one in zip(places[:4], stamps[:4], strict=True)]
    assert [len(index.keys) for index in found] == [12] * 4
    with pytest.raises(RequestError, match=r"train-4\.tar can't be read"):
        Shards("::".join(places)).load()


def test_where_no_index_can_be_stored_the_shards_are_read_all_the_same(
    places: list[str], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.write_text("no folder")
    monkeypatch.setattr("ftkit_webdataset.index.LARGE", 1)
    train = Shards("::".join(places)).load().train
    assert train is not None
    assert len(train) == 60
