"""`ftkit data split`: fractions, strata, groups, order of time and near duplicates, as the written files have them."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from PIL import Image

from ftkit.testing import make_image_folder
from tests.cli.test_data_check import photo
from tests.conftest import typed
from tests.multilabel import write_table


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image_folder(tmp_path_factory.mktemp("data") / "photos", {"a": 60, "b": 20, "c": 4}, (16, 16))


@pytest.fixture(scope="module")
def table(folder: Path) -> Path:
    """Images of 21 patients of two classes each, with dates that fall as the numbers rise."""
    rows = [("path", "label", "patient", "taken")]
    for name, count in {"a": 60, "b": 20, "c": 4}.items():
        for n in range(count):
            suffix = ("jpg", "png")[n % 2]
            rows.append((f"{name}/{n:04d}.{suffix}", name, f"p{n % 21}", f"2024-{12 - n // 10:02d}-01T10:{n % 60:02d}"))
    write_table(folder / "t.csv", rows)
    return folder / "t.csv"


PLAIN = ("--no-near-duplicates",)


def split(data: Path, to: Path, *args: str) -> list[dict[str, str]]:
    """The rows of the written table."""
    done = typed("data", "split", str(data), "--to", str(to), *args)
    assert done.returncode == 0, done.stderr
    with to.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def counts(rows: list[dict[str, str]]) -> dict[tuple[str, str], int]:
    return dict(Counter((row["split"], row["label"]) for row in rows))


def test_each_class_is_divided_by_the_fractions(folder: Path, tmp_path: Path) -> None:
    rows = split(folder, tmp_path / "s.csv", *PLAIN, "--val", "0.25", "--test", "0.25")
    assert counts(rows) == {
        ("train", "a"): 30, ("val", "a"): 15, ("test", "a"): 15,
        ("train", "b"): 10, ("val", "b"): 5, ("test", "b"): 5,
        ("train", "c"): 2, ("val", "c"): 1, ("test", "c"): 1,
    }  # fmt: skip
    assert len({row["path"] for row in rows}) == 84
    again = split(folder, tmp_path / "again.csv", *PLAIN, "--val", "0.25", "--test", "0.25")
    other = split(folder, tmp_path / "other.csv", *PLAIN, "--val", "0.25", "--test", "0.25", "--seed", "1")
    assert again == rows
    assert other != rows
    assert counts(other) == counts(rows)
    assert typed("data", "stats", str(tmp_path / "s.csv")).returncode == 0


def test_groups_are_in_one_split_and_classes_in_all(table: Path, tmp_path: Path) -> None:
    rows = split(table, tmp_path / "s.csv", *PLAIN, "--group", "patient", "--val", "0.2", "--test", "0.2")
    splits = defaultdict(set)
    for row in rows:
        splits[row["patient"]].add(row["split"])
    assert {len(found) for found in splits.values()} == {1}
    sizes = Counter(row["split"] for row in rows)
    assert abs(sizes["val"] - 16.8) <= 3
    assert abs(sizes["test"] - 16.8) <= 3
    assert {label for name, label in counts(rows) if name == "train"} == {"a", "b", "c"}
    share = {name: counts(rows)[name, "a"] / sizes[name] for name in sizes}
    assert max(share.values()) - min(share.values()) < 0.15
    assert list(rows[0]) == ["path", "label", "patient", "taken", "split"]
    checked = typed("data", "check", str(tmp_path / "s.csv"), "--group", "patient", "--json")
    assert "group-leakage" not in {one["check"] for one in json.loads(checked.stdout)["findings"]}


def test_the_last_images_are_for_testing(table: Path, tmp_path: Path) -> None:
    rows = split(table, tmp_path / "s.csv", *PLAIN, "--time", "taken", "--val", "0.25", "--test", "0.25")
    assert dict(Counter(row["split"] for row in rows)) == {"train": 42, "val": 21, "test": 21}
    times = {name: sorted(row["taken"] for row in rows if row["split"] == name) for name in ("train", "val", "test")}
    assert times["train"][-1] <= times["val"][0]
    assert times["val"][-1] <= times["test"][0]


def test_the_time_of_the_camera(tmp_path: Path) -> None:
    for number in range(8):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9003] = f"2024:01:{28 - number:02d} 10:00:00"
        place = tmp_path / "photos" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        photo(number).save(place / f"{number}.jpg", exif=exif)
    rows = split(tmp_path / "photos", tmp_path / "s.csv", "--time", "exif", "--val", "0", "--test", "0.25")
    assert sorted(row["path"][-5] for row in rows if row["split"] == "test") == ["0", "1"]
    photo(9).save(tmp_path / "photos" / "a" / "9.png")
    done = typed("data", "split", str(tmp_path / "photos"), "--time", "exif", "--dry-run")
    assert done.returncode == 2
    assert "1 image has no EXIF date: a/9.png" in done.stderr


def test_near_duplicates_stay_together(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            image = photo(number + 100 * (name == "b"))
            for copy in range(3):
                image.save(tmp_path / "photos" / name / f"{number}-{copy}.jpg", quality=95 - 15 * copy)
    rows = split(tmp_path / "photos", tmp_path / "s.csv", "--val", "0.25", "--test", "0.25")
    splits = defaultdict(set)
    for row in rows:
        splits[row["path"].rpartition("-")[0]].add(row["split"])
    assert (len(splits), {len(found) for found in splits.values()}) == (24, {1})
    assert counts(rows) == {
        ("train", "a"): 18, ("val", "a"): 9, ("test", "a"): 9,
        ("train", "b"): 18, ("val", "b"): 9, ("test", "b"): 9,
    }  # fmt: skip
    apart = split(tmp_path / "photos", tmp_path / "apart.csv", *PLAIN)
    checked = typed("data", "check", str(tmp_path / "apart.csv"), "--json")
    assert "near-duplicate-across-splits" in {one["check"] for one in json.loads(checked.stdout)["findings"]}
    assert len(apart) == 72


def test_folders_of_links(folder: Path, tmp_path: Path) -> None:
    to = tmp_path / "folders"
    done = typed("data", "split", str(folder), "--to", str(to), "--link", *PLAIN, "--val", "0.25", "--test", "0")
    assert done.returncode == 0, done.stderr
    files = [path for path in to.rglob("*") if path.is_symlink()]
    found = Counter(str(path.parent.relative_to(to)) for path in files)
    assert found == {"train/a": 45, "val/a": 15, "train/b": 15, "val/b": 5, "train/c": 3, "val/c": 1}
    assert all(path.resolve().parent.parent == folder.resolve() for path in files)
    stats = json.loads(typed("data", "stats", str(to), "--json").stdout)
    assert stats["counts"] == {"train": {"a": 45, "b": 15, "c": 3}, "val": {"a": 15, "b": 5, "c": 1}}


def test_several_labels_per_image(tmp_path: Path) -> None:
    rows = [("path", "label", "visit")]
    for number in range(60):
        photo(number, (24, 24)).save(tmp_path / f"{number}.png")
        labels = "|".join(name for step, name in ((2, "x"), (3, "y"), (10, "z")) if number % step == 0)
        rows.append((f"{number}.png", labels, f"v{number // 2}"))
    write_table(tmp_path / "t.csv", rows)
    args = ("--set", "dataset.separator=|", *PLAIN, "--val", "0", "--test", "0.5")
    for name, more in (("plain.csv", ()), ("grouped.csv", ("--group", "visit"))):
        found = split(tmp_path / "t.csv", tmp_path / name, *args, *more)
        tests = [row for row in found if row["split"] == "test"]
        assert 28 <= len(tests) <= 32
        for label, count in (("x", 30), ("y", 20), ("z", 6)):
            assert abs(sum(label in row["label"].split("|") for row in tests) - count / 2) <= 1
    assert len({(row["visit"], row["split"]) for row in found}) == 30


def test_data_with_splits_is_pooled(tmp_path: Path) -> None:
    data = make_image_folder(tmp_path / "p", {"train": {"a": 8, "b": 8}, "val": {"a": 2, "b": 2}}, (16, 16))
    rows = split(data, tmp_path / "s.csv", *PLAIN, "--val", "0.5", "--test", "0")
    assert counts(rows) == {(name, label): 5 for name in ("train", "val") for label in "ab"}
    shutil.rmtree(data / "val")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "give --to FILE.csv, --to FOLDER, or --dry-run"),
        (("--dry-run", "--val", "1.5"), "--val is 1.5"),
        (("--dry-run", "--val", "0.6", "--test", "0.4"), "leave no training images"),
        (("--dry-run", "--val", "0", "--test", "0"), "leave no other images"),
        (("--dry-run", "--time", "taken", "--seed", "1"), "--seed has no effect with --time"),
        (("--dry-run", "--time", "patient"), "no date or number in column 'patient'"),
        (("--dry-run", "--group", "patent"), "did you mean 'patient'?"),
        (("--dry-run", "--link"), "--link has no effect without --to FOLDER"),
        (("--dry-run", "--group", "label"), "the val split would be empty"),
    ],
)
def test_wrong_requests(table: Path, args: tuple[str, ...], message: str) -> None:
    done = typed("data", "split", str(table), *PLAIN, *args)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr


def test_data_without_files_is_refused(tmp_path: Path) -> None:
    to = tmp_path / "s.csv"
    done = typed("data", "split", "--set", "dataset.name=digits", *PLAIN, "--to", str(to), cwd=tmp_path)
    assert done.returncode == 2
    assert "its images aren't files of their own" in done.stderr
    assert not to.exists()
