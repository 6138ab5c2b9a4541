"""`ftkit data check` and `ftkit data stats`: planted problems, each found once and with its image."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from ftkit.testing import draw_image, make_image_folder
from tests.conftest import typed
from tests.multilabel import write_table


def photo(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """A smooth image with many features, unlike those of other seeds."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 12 training and 12 validation photographs each."""
    root = tmp_path_factory.mktemp("clean")
    seed = 0
    for split in ("train", "val"):
        for name in ("ants", "bees"):
            (root / split / name).mkdir(parents=True)
            for number in range(12):
                photo(seed).save(root / split / name / f"{number:02d}.png")
                seed += 1
    return root


@pytest.fixture
def data(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "data"))


def checked(*args: object, code: int = 0) -> dict[str, Any]:
    """The findings by check, as `--json` has them."""
    done = typed("data", "check", *map(str, args), "--json")
    assert done.returncode == code, done.stderr
    found = json.loads(done.stdout)["findings"]
    assert len({one["check"] for one in found}) == len(found)
    return {one["check"]: one for one in found}


def names(finding: dict[str, Any]) -> list[list[str]]:
    return [[image["name"] for image in item["images"]] for item in finding["items"]]


def test_clean_data_has_no_finding(clean: Path) -> None:
    assert checked(clean, "--fail-on", "info") == {}
    done = typed("data", "check", str(clean))
    assert done.stdout == f"{clean}: 48 images (train 24, val 24), 2 classes\n0 errors, 0 warnings\n"


def test_problems_of_files(data: Path) -> None:
    folder = data / "train" / "ants"
    (folder / "broken.jpg").write_bytes((folder / "00.png").read_bytes()[:200])
    photo(100).save(folder / "named.jpg", "PNG")
    photo(101).convert("CMYK").save(folder / "cmyk.tif")
    Image.new("RGB", (96, 72), (250, 250, 250)).save(folder / "plain.png")
    photo(102, (12, 12)).save(folder / "tiny.png")
    photo(103, (500, 72)).save(folder / "long.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(104).save(folder / "turned.jpg", exif=exif)
    photo(105).save(folder / "profile.png", icc_profile=b"no profile")
    found = checked(data, code=1)
    assert {name: (one["severity"], names(one)) for name, one in found.items()} == {
        "unreadable": ("error", [["train/ants/broken.jpg"]]),
        "wrong-extension": ("warning", [["train/ants/named.jpg"]]),
        "damaged-profile": ("warning", [["train/ants/profile.png"]]),
        "one-color": ("warning", [["train/ants/plain.png"]]),
        "unusual-mode": ("info", [["train/ants/cmyk.tif"]]),
        "small-image": ("warning", [["train/ants/tiny.png"]]),
        "aspect-ratio": ("warning", [["train/ants/long.png"]]),
        "orientation": ("info", [["train/ants/turned.jpg"]]),
    }
    assert found["small-image"]["items"][0]["detail"] == "12 x 12 pixels"
    assert found["orientation"]["items"][0]["detail"] == "orientation 6"


def test_copies_by_place_and_label(data: Path) -> None:
    train, val = data / "train", data / "val"
    shutil.copy(train / "ants" / "00.png", val / "ants" / "copy.png")
    shutil.copy(train / "ants" / "01.png", train / "bees" / "other-label.png")
    shutil.copy(train / "ants" / "02.png", train / "ants" / "again.png")
    with Image.open(train / "ants" / "03.png") as image:
        image.convert("RGB").save(val / "ants" / "near.jpg", quality=60)
    with Image.open(train / "ants" / "04.png") as image:
        image.resize((192, 144)).save(val / "bees" / "large.png")
    with Image.open(train / "ants" / "05.png") as image:
        ImageOps.mirror(image).save(val / "ants" / "mirrored.png")
    found = checked(data, code=1)
    assert {name: (one["severity"], sorted(map(sorted, names(one)))) for name, one in found.items()} == {
        "duplicate-across-splits": ("error", [["train/ants/00.png", "val/ants/copy.png"]]),
        "duplicate-labels": ("error", [["train/ants/01.png", "train/bees/other-label.png"]]),
        "duplicate": ("warning", [["train/ants/02.png", "train/ants/again.png"]]),
        "near-duplicate-across-splits": (
            "warning",
            [["train/ants/03.png", "val/ants/near.jpg"], ["train/ants/04.png", "val/bees/large.png"]],
        ),
        "near-duplicate-labels": ("warning", [["train/ants/04.png", "val/bees/large.png"]]),
    }


def test_problems_of_classes(tmp_path: Path) -> None:
    data = make_image_folder(tmp_path, {"train": {"a": 40, "b": 3, "c": 12}, "val": {"a": 10, "c": 12, "d": 2}})
    done = typed("data", "check", str(data), "--json")
    listed = json.loads(done.stdout)["findings"]
    found = {one["check"]: one for one in listed}
    assert found["class-imbalance"]["items"][0]["detail"] == "class a: 40 images"
    assert "13 times" in found["class-imbalance"]["message"]
    assert found["small-class"]["message"] == "1 class has fewer than 10 train images: b"
    missing = [one for one in listed if one["check"] == "missing-class"]
    assert [(one["severity"], one["message"]) for one in missing] == [
        ("error", "the train split has no image of 1 class: d"),
        ("warning", "the val split has no image of 1 class: b"),
    ]


def test_other_proportions_of_classes(tmp_path: Path) -> None:
    data = make_image_folder(tmp_path, {"train": {"a": 60, "b": 20}, "val": {"a": 10, "b": 30}})
    found = checked(data, "--ignore", "near-duplicate")
    # Chi-square of the table is 120 * (60 * 30 - 20 * 10)² / (80 * 40 * 70 * 50) = 27.43; V is its root over 120.
    assert "(Cramér's V 0.48): class a: 75.0% of train, 25.0% of val" in found["class-proportions"]["message"]


def test_splits_that_look_different(tmp_path: Path) -> None:
    seeds = iter(range(200, 400))
    for split, dark in (("train", 0.0), ("val", 0.7)):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(30):
                image = photo(next(seeds))
                Image.blend(image, Image.new("RGB", image.size), dark).save(tmp_path / split / name / f"{number}.png")
    found = checked(tmp_path)
    details = [item["detail"].partition(":")[0] for item in found["split-shift"]["items"]]
    assert {"brightness", "contrast"} <= set(details)
    assert not {"width", "height", "aspect ratio"} & set(details)


def test_leakage_by_group(data: Path, tmp_path: Path) -> None:
    rows = [("path", "label", "split", "patient")]
    for split in ("train", "val"):
        for name in ("ants", "bees"):
            for number in range(12):
                patient = f"p{number}" if number > 9 else f"{split}{number}"
                rows.append((f"{split}/{name}/{number:02d}.png", name, split, patient if number else ""))
    write_table(data / "table.csv", rows)
    found = checked(data / "table.csv", "--group", "patient", code=1)
    assert [item["detail"] for item in found["group-leakage"]["items"]] == [
        "group p10: 2 in train, 2 in val",
        "group p11: 2 in train, 2 in val",
    ]
    assert len(found["no-group"]["items"]) == 4
    by_path = checked(data, "--group", r"/([0-9]+)\.png", code=1)
    assert by_path["group-leakage"]["message"] == "12 groups are in two or more splits, of 12 groups"
    assert "group-leakage" not in checked(data, "--group", "parent")


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("patient", "--group patient: {data} has no columns"),
        (r"(a)(b)", "--group (a)(b): it has 2 groups in parentheses"),
        (r"(a", "--group (a: missing ), unterminated subpattern at position 0"),
        (r"(xyz)", "--group (xyz): no image has such a group; a path is train/ants/00.png"),
    ],
)
def test_groups_that_cant_be_read(clean: Path, group: str, message: str) -> None:
    done = typed("data", "check", str(clean), "--group", group)
    assert done.returncode == 2
    assert f"error: {message.format(data=clean)}" in done.stderr
    assert "Traceback" not in done.stderr


def test_exit_codes_follow_the_severity(data: Path) -> None:
    shutil.copy(data / "train/ants/02.png", data / "train/ants/again.png")
    codes = {level: typed("data", "check", str(data), "--fail-on", level).returncode for level in ("error", "warning")}
    assert codes == {"error": 0, "warning": 1}
    shutil.copy(data / "train/ants/02.png", data / "val/ants/again.png")
    assert typed("data", "check", str(data)).returncode == 1
    assert typed("data", "check", str(data), "--fail-on", "never").returncode == 0
    assert typed("data", "check", str(data), "--ignore", "duplicate-across-splits").returncode == 0


def test_a_file_has_every_finding(data: Path, tmp_path: Path) -> None:
    shutil.copy(data / "train/ants/00.png", data / "val/bees/copy.png")
    (data / "val" / "bees" / "broken.png").write_bytes(b"")
    to = tmp_path / "found.csv"
    assert typed("data", "check", str(data), "--to", str(to)).returncode == 1
    with to.open(encoding="utf-8", newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ("unreadable", "error", "1", "val", "val/bees/broken.png", "bees", "the file is empty"),
        ("duplicate-across-splits", "error", "1", "train", "train/ants/00.png", "ants", ""),
        ("duplicate-across-splits", "error", "1", "val", "val/bees/copy.png", "bees", ""),
        ("duplicate-labels", "error", "1", "train", "train/ants/00.png", "ants", ""),
        ("duplicate-labels", "error", "1", "val", "val/bees/copy.png", "bees", ""),
    ]
    again = typed("data", "check", str(data), "--to", str(to))
    assert (again.returncode, again.stdout) == (2, "")
    assert "it exists already" in again.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nowhere",), "no such file or folder"),
        ((), "no data is named"),
        ((".", "--ignore", "duplicates"), "did you mean 'duplicate'?"),
        ((".", "--set", "epochs=3"), "only dataset, classes, label_map can be set here"),
        ((".", "--to", "found.txt"), "its name doesn't end in .csv, .json"),
        ((".", "--to", "missing/found.csv"), "there is no folder missing"),
    ],
)
def test_wrong_requests(tmp_path: Path, args: tuple[str, ...], message: str) -> None:
    make_image_folder(tmp_path, {"a": 2, "b": 2})
    done = typed("data", "check", *args, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_data_of_a_config_and_of_a_plugin(tmp_path: Path) -> None:
    done = typed("data", "check", "--set", "dataset.name=digits", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["data"], sum(found["images"].values()), found["classes"]) == ("digits", 1797, 10)
    data = make_image_folder(tmp_path / "photos", {"a": 12, "b": 12})
    (tmp_path / "ftkit.yaml").write_text("dataset:\n  name: folder\n  root: photos\n")
    done = typed("data", "stats", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["data"] == str(data)


def test_several_labels_per_image(tmp_path: Path) -> None:
    rows = [("path", "label")]
    for number in range(24):
        photo(number).save(tmp_path / f"{number}.png")
        rows.append((f"{number}.png", "|".join(name for bit, name in enumerate("abc") if number >> bit & 1)))
    shutil.copy(tmp_path / "1.png", tmp_path / "copy.png")
    write_table(tmp_path / "t.csv", [*rows, ("copy.png", "a|b")])
    found = checked(tmp_path / "t.csv", "--set", "dataset.separator=|", code=1)
    labels = [image["label"] for image in found["duplicate-labels"]["items"][0]["images"]]
    assert (sorted(found), labels) == (["duplicate-labels"], ["a", "a|b"])


def test_statistics(tmp_path: Path) -> None:
    for split, counts in {"train": {"a": 3, "b": 1}, "val": {"a": 1, "b": 1}}.items():
        for name, count in counts.items():
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                level = 255 if number == 2 else 51
                Image.new("RGB", (40, 20 + number), (level, 0, 0)).save(tmp_path / split / name / f"{number}.png")
    (tmp_path / "val" / "b" / "broken.jpg").write_bytes(b"\xff\xd8")
    done = typed("data", "stats", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["counts"] == {"train": {"a": 3, "b": 1}, "val": {"a": 1, "b": 2}}
    train = found["splits"]["train"]
    assert (train["images"], train["unreadable"], train["modes"]) == (4, 0, {"RGB": 4})
    assert train["distributions"]["height"] == {
        "min": 20.0, "p5": 20.0, "median": 20.5, "p95": pytest.approx(21.85), "max": 22.0, "mean": 20.75,
    }  # fmt: skip
    assert train["mean"] == pytest.approx([(3 * 0.2 + 1) / 4, 0, 0], abs=1e-6)
    # Mean of the squares (3 * 0.04 + 1) / 4 = 0.28, less 0.4².
    assert train["std"] == pytest.approx([0.12**0.5, 0, 0], abs=1e-6)
    assert train["distributions"]["contrast"]["max"] == 0.0
    assert (found["overall"]["unreadable"], found["overall"]["formats"]) == (1, {"PNG": 6})
    printed = typed("data", "stats", str(tmp_path))
    assert "1 image can't be read" in printed.stderr
    assert "mean of red, green, blue: 0.333, 0.000, 0.000" in printed.stdout


def test_names_with_markup_and_odd_characters(tmp_path: Path) -> None:
    for name in ("[b]", "ä\u2028x", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(10):
            draw_image(number, (40, 40), f"{name}{number}").save(tmp_path / "train" / name / f"[red]{number}.png")
    (tmp_path / "train" / "[b]" / "no\nimage.png").write_bytes(b"text")
    done: subprocess.CompletedProcess[str] = typed("data", "check", str(tmp_path))
    assert done.returncode == 1, done.stderr
    assert "train/[b]/no\\nimage.png ([b]): not an image" in done.stdout
    assert typed("data", "stats", str(tmp_path)).returncode == 0
