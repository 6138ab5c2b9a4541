"""`ftkit data fix`: corrections of a table and of class folders, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from ftkit.testing import draw_image, make_image_folder
from tests.conftest import typed
from tests.multilabel import write_table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_image_folder(tmp_path / "photos", {"train": {"ants": 3, "bees": 3}, "val": {"ants": 1, "bees": 1}})


@pytest.fixture
def table(folder: Path) -> Path:
    """A table with further columns and semicolons."""
    rows = ["file;breed;note;split"]
    for split, count in (("train", 3), ("val", 1)):
        for name in ("ants", "bees"):
            rows += [f"{split}/{name}/{n:04d}.{('jpg', 'png')[n % 2]};{name};n{n};{split}" for n in range(count)]
    (folder / "t.csv").write_text("\n".join(rows) + "\n", encoding="utf-8-sig")
    return folder / "t.csv"


COLUMNS = ("--set", "dataset.image_column=file", "--set", "dataset.label_column=breed")


def corrections(folder: Path, actions: Mapping[str, tuple[str, str]]) -> str:
    rows = [(image, label, action, "ignored") for image, (action, label) in actions.items()]
    write_table(folder.parent / "fix.csv", [("image", "label", "action", "score"), *rows])
    return str(folder.parent / "fix.csv")


ACTIONS = {
    "train/ants/0000.jpg": ("relabel", "bees"),
    "train/ants/0001.png": ("remove", "bees"),
    "train/bees/0000.jpg": ("keep", "ants"),
    "val/bees/0000.jpg": ("", "ants"),
    "train/bees/0001.png": ("relabel", "bees"),
}
SUMMARY = """1 image relabelled, 1 removed, 1 kept
  ants -> bees: 1
1 row to relabel have the label already
1 row without an action: their images are kept as they are
"""


def test_class_folders_as_a_table(folder: Path) -> None:
    to = folder.parent / "fixed.csv"
    done = typed("data", "fix", corrections(folder, ACTIONS), "--data", str(folder), "--to", str(to))
    assert (done.returncode, done.stdout) == (0, SUMMARY), done.stderr
    assert to.read_text(encoding="utf-8").splitlines() == [
        "path,label,split",
        "photos/train/ants/0000.jpg,bees,train",
        "photos/train/ants/0002.jpg,ants,train",
        "photos/train/bees/0000.jpg,bees,train",
        "photos/train/bees/0001.png,bees,train",
        "photos/train/bees/0002.jpg,bees,train",
        "photos/val/ants/0000.jpg,ants,val",
        "photos/val/bees/0000.jpg,bees,val",
    ]
    assert typed("data", "stats", str(to)).returncode == 0


@pytest.mark.parametrize("link", [False, True])
def test_class_folders_as_a_copy(folder: Path, link: bool) -> None:
    to, before = folder.parent / "fixed", sorted(folder.rglob("*"))
    more = ("--link",) if link else ()
    done = typed("data", "fix", corrections(folder, ACTIONS), "--data", str(folder), "--to", str(to), *more)
    assert done.returncode == 0, done.stderr
    assert sorted(folder.rglob("*")) == before
    files = {str(path.relative_to(to)): path for path in to.rglob("*") if path.is_file()}
    assert sorted(files) == [
        "train/ants/0002.jpg",
        "train/bees/0000-2.jpg",
        "train/bees/0000.jpg",
        "train/bees/0001.png",
        "train/bees/0002.jpg",
        "val/ants/0000.jpg",
        "val/bees/0000.jpg",
    ]
    assert files["train/bees/0000.jpg"].read_bytes() == (folder / "train/ants/0000.jpg").read_bytes()
    assert files["train/bees/0000-2.jpg"].read_bytes() == (folder / "train/bees/0000.jpg").read_bytes()
    assert {path.is_symlink() for path in files.values()} == {link}


def test_a_table_keeps_its_columns_and_separator(table: Path) -> None:
    before = table.read_text(encoding="utf-8-sig").splitlines()
    done = typed("data", "fix", corrections(table.parent, ACTIONS), "--data", str(table), *COLUMNS, "--in-place")
    assert (done.returncode, done.stdout) == (0, SUMMARY), done.stderr
    expected = [row.replace("0000.jpg;ants;n0;train", "0000.jpg;bees;n0;train") for row in before]
    del expected[2]
    assert table.read_text(encoding="utf-8").splitlines() == expected


def test_a_table_elsewhere_has_paths_from_there(table: Path) -> None:
    to = table.parent.parent / "fixed.csv"
    args = ("data", "fix", corrections(table.parent, ACTIONS), "--data", str(table), *COLUMNS)
    assert typed(*args, "--to", str(to)).returncode == 0
    assert to.read_text(encoding="utf-8").splitlines()[:2] == [
        "file,breed,note,split",
        "photos/train/ants/0000.jpg,bees,n0,train",
    ]
    assert typed("data", "check", str(to), *COLUMNS, "--fail-on", "never").returncode == 0


def test_a_dry_run_writes_nothing(table: Path) -> None:
    before = table.read_bytes()
    args = ("data", "fix", corrections(table.parent, ACTIONS), "--data", str(table), *COLUMNS, "--dry-run")
    done = typed(*args)
    assert (done.returncode, done.stdout) == (0, SUMMARY)
    assert typed(*args, "--in-place").returncode == 0
    assert table.read_bytes() == before


def test_several_labels_per_image(tmp_path: Path) -> None:
    for number in range(3):
        draw_image(number, (32, 32), f"{number}").save(tmp_path / f"{number}.png")
    rows = [("path", "label"), ("0.png", "a;b"), ("1.png", "b"), ("2.png", "c")]
    write_table(tmp_path / "t.csv", rows)
    actions = {"0.png": ("relabel", "c|a"), "1.png": ("relabel", ""), "2.png": ("relabel", "c")}
    (tmp_path / "x").mkdir()
    file = corrections(tmp_path / "x", actions)
    args = ("data", "fix", file, "--data", str(tmp_path / "t.csv"), "--set", "dataset.separator=;")
    done = typed(*args, "--to", str(tmp_path / "fixed.csv"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "fixed.csv").read_text().splitlines() == ["path,label", "0.png,c;a", "1.png,", "2.png,c"]
    assert "  a|b -> a|c: 1\n  b -> no label: 1\n" in done.stdout
    columns = [("path", "a", "b"), ("0.png", 1, 0), ("1.png", 0, 1), ("2.png", 0, 0)]
    write_table(tmp_path / "c.csv", columns)
    file = corrections(tmp_path / "x", {"0.png": ("relabel", "a|b"), "1.png": ("remove", "")})
    args = ("data", "fix", file, "--data", str(tmp_path / "c.csv"), "--set", "dataset.class_columns=[a, b]")
    assert typed(*args, "--in-place").returncode == 0
    assert (tmp_path / "c.csv").read_text().splitlines() == ["path,a,b", "0.png,1,1", "2.png,0,0"]


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ({"train/ants/0000.jpg": ("relabel", "bee")}, "line 2: 'bee' is not a class of"),
        ({"train/ants/0000.jpg": ("relabel", "")}, "line 2: relabel without a label"),
        ({"train/ants/0000.jpg": ("delete", "bees")}, "line 2: action 'delete' is not keep, relabel or remove"),
        ({"ants/0000.jpg": ("remove", ""), "x": ("keep", "")}, "2 images are not in"),
    ],
)
def test_wrong_corrections(folder: Path, actions: Mapping[str, tuple[str, str]], message: str) -> None:
    to = folder.parent / "fixed.csv"
    done = typed("data", "fix", corrections(folder, actions), "--data", str(folder), "--to", str(to))
    assert done.returncode == 2
    assert message in done.stderr
    assert not to.exists()


def test_new_classes_are_accepted_on_request(folder: Path) -> None:
    to = folder.parent / "fixed"
    file = corrections(folder, {"train/ants/0000.jpg": ("relabel", "wasps")})
    done = typed("data", "fix", file, "--data", str(folder), "--to", str(to), "--new-classes")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (to / "train" / "wasps").iterdir()] == ["0000.jpg"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "give one of --to and --in-place"),
        (("--to", "a.csv", "--in-place"), "give one of --to and --in-place"),
        (("--to", "photos"), "--to photos: it exists already"),
        (("--to", "no/where.csv"), "there is no folder no"),
        (("--to", "a.csv", "--link"), "--link has no effect without --to FOLDER"),
        (("--in-place",), "photos is not one"),
    ],
)
def test_wrong_requests(folder: Path, args: tuple[str, ...], message: str) -> None:
    file = corrections(folder, {"train/ants/0000.jpg": ("remove", "")})
    done = typed("data", "fix", file, "--data", "photos", *args, cwd=folder.parent)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr


def test_files_that_arent_corrections(folder: Path) -> None:
    write_table(folder.parent / "t.csv", [("path", "label"), ("a", "b")])
    for name, message in (("t.csv", "has no column 'image'"), ("no.csv", "no.csv: no such file")):
        done = typed("data", "fix", str(folder.parent / name), "--data", str(folder), "--dry-run")
        assert (done.returncode, message in done.stderr) == (2, True)
