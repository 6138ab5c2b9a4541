"""Pictures that are in two splits: found and listed, be they the same file, saved once more, or scaled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

import ftkit
from tests import runs
from tests.conftest import typed

SMALL: dict[str, Any] = {"backbone": "lenet", "weights": "none", "strategy": "scratch", "epochs": 1, "workers": 0}
plan = runs.planner(**SMALL)
SIZE = (240, 180)


def picture(seed: int) -> Image.Image:
    """Soft blobs, as unlike from seed to seed as photographs are."""
    coarse = Image.frombytes("RGB", (12, 9), Random(seed).randbytes(12 * 9 * 3))
    return coarse.resize(SIZE, Image.Resampling.BICUBIC)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes; 12 pictures to train on, 8 for validation and 4 to test, all different."""
    root, seed = tmp_path / "data", 0
    for split, count in (("train", 6), ("val", 4), ("test", 2)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                picture(seed := seed + 1).save(root / split / name / f"{number}.jpg", quality=95)
    return root


def copies(data: Path) -> Iterator[tuple[str, str, bool]]:
    """Put copies of training pictures into the other splits: what, of what, and whether byte for byte."""
    shutil.copy(data / "train/a/0.jpg", data / "val/a/0.jpg")
    yield "val/a/0.jpg", "train/a/0.jpg", True
    Image.open(data / "train/b/1.jpg").save(data / "val/b/1.jpg", quality=60)
    yield "val/b/1.jpg", "train/b/1.jpg", False
    Image.open(data / "train/b/2.jpg").resize((120, 90)).save(data / "test/b/0.jpg", quality=80)
    yield "test/b/0.jpg", "train/b/2.jpg", False
    Image.open(data / "val/b/2.jpg").resize((300, 225)).save(data / "test/a/1.png")
    yield "test/a/1.png", "val/b/2.jpg", False


def test_copies_across_splits_are_listed_and_reported(data: Path, tmp_path: Path) -> None:
    expected = {(str(data / one), str(data / other)): same for one, other, same in copies(data)}
    decided = plan(data, tmp_path / "runs")
    (note,) = [note for note in decided.notes if "in two splits" in note]
    assert "1 identical, 3 nearly identical, 1 with different labels" in note
    outcome = ftkit.train(decided)
    listed = [json.loads(line) for line in outcome.run.duplicates.read_text().splitlines()]
    assert {(line["file"], line["other_file"]): line["hash_distance"] is None for line in listed} == expected
    assert [line["hash_distance"] <= 7 for line in listed if line["hash_distance"] is not None] == [True] * 3
    by_file = {line["file"]: line for line in listed}
    odd = by_file[str(data / "test/a/1.png")]
    assert (odd["split"], odd["label"], odd["other_split"], odd["other_label"]) == ("test", "a", "val", "b")
    assert json.loads(outcome.run.plan.read_text())["duplicates"] == 4


def test_what_is_remembered_finds_the_same(data: Path, tmp_path: Path) -> None:
    list(copies(data))
    first, second = (plan(data, tmp_path / "runs").findings.duplicates for _ in range(2))
    assert len(first) == 4
    assert second == first


def test_different_pictures_and_copies_in_one_split_are_not_reported(data: Path, tmp_path: Path) -> None:
    shutil.copy(data / "train/a/0.jpg", data / "train/a/copy.jpg")
    decided = plan(data, tmp_path / "runs")
    assert not any("in two splits" in note for note in decided.notes)
    assert not ftkit.train(decided).run.duplicates.exists()


def test_a_picture_under_two_classes_of_a_split_is_reported_and_listed(data: Path, tmp_path: Path) -> None:
    shutil.copy(data / "train/a/0.jpg", data / "train/b/same.jpg")
    shutil.copy(data / "train/a/0.jpg", data / "train/b/once more.jpg")
    Image.open(data / "train/b/1.jpg").resize((120, 90)).save(data / "train/a/like.jpg", quality=80)
    (data / "val/b/link.jpg").symlink_to(data / "val/a/1.jpg")
    (data / "val/b/hard.jpg").hardlink_to(data / "val/a/2.jpg")
    decided = plan(data, tmp_path / "runs")
    (note,) = [note for note in decided.notes if "with different labels in one" in note]
    assert "in one split: 4 identical, 1 nearly identical" in note
    assert f"{data}/train/b/once more.jpg (b) and {data}/train/a/0.jpg (a)" in note
    outcome = ftkit.train(decided)
    listed = [json.loads(line) for line in outcome.run.duplicates.read_text().splitlines()]
    pairs = ((line["file"].removeprefix(f"{data}/"), line["other_file"].removeprefix(f"{data}/")) for line in listed)
    assert dict(zip(pairs, (line["hash_distance"] is None for line in listed), strict=True)) == {
        ("train/b/same.jpg", "train/a/0.jpg"): True,
        ("train/b/once more.jpg", "train/a/0.jpg"): True,
        ("train/b/1.jpg", "train/a/like.jpg"): False,
        ("val/b/link.jpg", "val/a/1.jpg"): True,
        ("val/b/hard.jpg", "val/a/2.jpg"): True,
    }  # fmt: skip
    assert all(line["split"] == line["other_split"] and line["label"] != line["other_label"] for line in listed)
    written = json.loads(outcome.run.plan.read_text())
    assert (written["contradictions"], written["duplicates"]) == (5, 0)
    printed = typed("plan", "--data", str(data), "--backbone", "lenet", "--weights", "none", "--strategy", "scratch")
    assert "with different labels in one split" in printed.stdout + printed.stderr


def test_one_file_of_a_table_under_two_spellings_and_classes(data: Path, tmp_path: Path) -> None:
    (data / "link.jpg").symlink_to(data / "train/a/0.jpg")
    rows = ["train/a/0.jpg,a", "train/../train/a/0.jpg,b", f"{data}/train/a/0.jpg,b", "link.jpg,b", "train/b/0.jpg,b"]
    (data / "t.csv").write_text(
        "\n".join(["path,label", *rows, *(f"val/{c}/{n}.jpg,{c}" for c in "ab" for n in range(4))])
    )
    plans = {"output": str(tmp_path / "runs"), "val_fraction": 0.2, **SMALL}
    decided = ftkit.plan(dataset={"name": "csv", "path": str(data / "t.csv")}, **plans)
    # Those of the four that are held out for validation are reported as copies in two splits.
    found = decided.findings.duplicates
    assert len([one for one in found if one.hash_distance is None and one.label != one.other_label]) >= 1
    assert all({Path(one.file).resolve(), Path(one.other_file).resolve()} == {data / "train/a/0.jpg"} for one in found)
    assert any("with different labels" in note for note in decided.notes)


def test_plain_pictures_are_the_same_only_byte_for_byte(tmp_path: Path) -> None:
    """White shapes on black are much alike in a thumbnail; that doesn't make them copies."""
    for split, shift in (("train", 0), ("val", 1)):
        for name in ("a", "b"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(3):
                image = Image.new("L", (28, 28))
                image.paste(255, (10 + number, 4, 14 + number + shift, 24))
                image.save(tmp_path / "data" / split / name / f"{number}.png")
    shutil.copy(tmp_path / "data/train/b/1.png", tmp_path / "data/val/b/1.png")
    found = plan(tmp_path / "data", tmp_path / "runs").findings.duplicates
    # The two classes hold the same shapes, and the first one that is met is named.
    across = [one for one in found if not one.contradicts]
    assert [(one.hash_distance, one.file) for one in across] == [(None, str(tmp_path / "data/val/b/1.png"))]
    assert all(one.hash_distance is None for one in found)


def test_the_photographs_of_the_tutorial_have_none(shared: Path, tmp_path: Path) -> None:
    decided = plan(shared / "data" / "hymenoptera", tmp_path)
    assert decided.findings.duplicates == ()
    assert decided.findings.bad == ()
