"""A byte that flipped or a file that was cut is found, wherever it is."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit.errors import FtkitError
from tests.conftest import MakeFolder
from tests.soak import times
from tests.soak.readers import read_checkpoint

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    folder = tmp_path_factory.mktemp("run")
    image_folder(folder / "data", {"train": {"a": 8, "b": 8}, "val": {"a": 3, "b": 3}})
    settings: dict[str, Any] = {"backbone": "lenet", "weights": "none", "epochs": 1, "workers": 0}
    plan = ftkit.plan(dataset={"name": "folder", "root": str(folder / "data")}, output=str(folder / "runs"), **settings)
    return ftkit.train(plan).run.path


def spoil(path: Path, random_: random.Random) -> str:
    """Flip a bit or cut the file, somewhere."""
    content = bytearray(path.read_bytes())
    place = random_.randrange(len(content))
    if random_.random() < 0.5:
        content[place] ^= 1 << random_.randrange(8)
        path.write_bytes(content)
        return f"{path.name}: bit flipped in byte {place}"
    path.write_bytes(content[:place])
    return f"{path.name}: cut after {place} bytes"


@pytest.mark.parametrize(
    ("part", "read"),
    [("checkpoints", read_checkpoint), ("model", lambda folder: ftkit.load(folder))],
    ids=["checkpoint", "bundle"],
)
def test_each_damage_is_found_and_named(part: str, read: Callable[[Path], object], run: Path, tmp_path: Path) -> None:
    read(run / part)
    random_ = random.Random(3)
    missed = []
    for number in range(times(1000)):
        copy = shutil.copytree(run / part, tmp_path / str(number))
        victim = random_.choice(sorted(p for p in copy.rglob("*") if p.is_file() and p.name != "LATEST"))
        what = spoil(victim, random_)
        try:
            read(copy)
        except FtkitError as error:
            if str(victim.parent) not in str(error):
                missed.append(f"{what}: not named: {error}")
        else:
            missed.append(what)
        shutil.rmtree(copy)
    assert missed == []
