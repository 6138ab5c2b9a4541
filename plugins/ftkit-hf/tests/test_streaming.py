"""Datasets that stay on the hub, one on this machine: what is fetched, how often, and to which end."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import datasets
import pytest
from ftkit_hf.dataset import HubDataset

from ftkit.api import RequestError, UnreadableImage
from ftkit.testing import check_dataset, draw_image
from ftkit.testing.project import Project

sys.path.insert(0, str(Path(__file__).parent))
from hub import Hub, serving

BLOCK = 4
IMAGES = 40
NAME = "me/photos"


def parquet(count: int, seed: str) -> bytes:
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.ClassLabel(names=["ants", "bees"])})
    pictures = [draw_image(i % 2, (32, 32), f"{seed}{i}") for i in range(count)]
    rows = datasets.Dataset.from_dict({"picture": pictures, "label": [i % 2 for i in range(count)]}, features)
    rows.to_parquet(out := BytesIO(), batch_size=BLOCK)
    return out.getvalue()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as found:
        half = IMAGES // 2
        for name, count in (("train-00000-of-00002", half), ("train-00001-of-00002", half), ("test-00000-of-00001", 8)):
            found.datasets[NAME, f"data/{name}.parquet"] = parquet(count, name)
        yield found


@pytest.fixture
def run(hub: Hub, ftkit_project: Callable[..., Project], tmp_path: Path) -> Callable[..., str]:
    """ftkit with that hub, in a project; gives what it prints."""
    project = ftkit_project({})
    env = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def call(*line: str) -> str:
        done = project.run(*line, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


LINE = (
    *("train", "--dataset", "hf/dataset", "--set", f"dataset.path={NAME}", "--set", "dataset.streaming=true"),
    *("--backbone", "cifar_resnet20", "--weights", "none", "--batch-size", "4", "--no-cache"),
    *("--image-size", "32", "-q"),
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "photos.parquet"
    path.write_bytes(parquet(22, "a"))
    return path


def test_it_is_the_same_data_in_blocks(file: Path) -> None:
    check_dataset(HubDataset(str(file), streaming=True))
    there, here = (HubDataset(str(file), streaming=streaming).load() for streaming in (True, False))
    assert there.classes == here.classes
    assert there.train is not None
    assert here.train is not None
    assert (there.train.names, there.train.labels) == (here.train.names, here.train.labels)
    assert there.train.blocks == [row // BLOCK for row in range(22)]
    assert all(there.train[i][0].tobytes() == here.train[i][0].tobytes() for i in range(22))


def test_a_file_that_changes_is_read_anew(file: Path) -> None:
    before = HubDataset(str(file), streaming=True).load().train
    file.write_bytes(parquet(30, "b"))
    after = HubDataset(str(file), streaming=True).load().train
    assert before is not None
    assert after is not None
    assert before.stamp != after.stamp
    assert len(after) == 30
    assert after[0][0].tobytes() != draw_image(0, (32, 32), "a0").tobytes()


def test_what_is_kept_has_a_limit(file: Path, tmp_path: Path) -> None:
    train = HubDataset(str(file), streaming=True, streaming_cache_gb=20e-6).load().train
    assert train is not None
    pictures = [train[i][0].tobytes() for i in range(22)]
    kept = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.arrow"))
    assert 0 < kept <= 20_000
    assert pictures == [train[i][0].tobytes() for i in range(22)]


def test_a_file_that_is_gone_is_an_unreadable_image(file: Path) -> None:
    train = HubDataset(str(file), streaming=True).load().train
    assert train is not None
    file.unlink()
    with pytest.raises(UnreadableImage, match=r"photos.parquet, row 3: "):
        train[3]


def test_other_files_than_parquet_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d" / "ants").mkdir(parents=True)
    draw_image(0, (32, 32), "a").save(tmp_path / "d" / "ants" / "a.png")
    with pytest.raises(RequestError, match="isn't in Parquet files"):
        HubDataset(str(tmp_path / "d"), streaming=True).load()


def test_processes_fetch_each_block_once(hub: Hub, run: Callable[..., str]) -> None:
    run(*LINE, "--strategy", "full", "--epochs", "2", "--workers", "2", "--name", "run")
    asked = Counter(hub.parts)
    assert set(asked.values()) == {1}
    # Of each file its end, and of each block the labels and the images.
    assert sum(name.startswith("data/train") for name, _ in asked) == 2 + 2 * (IMAGES // BLOCK)
