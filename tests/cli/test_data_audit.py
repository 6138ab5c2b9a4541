"""`ftkit data audit`: planted label errors in digits, with the features of LeNet's MNIST weights."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import ftkit
from tests.conftest import typed
from tests.multilabel import PROPERTIES, write_digits, write_table
from tests.planted_errors import COUNT, WRONG, write_planted
from tests.report_page import Page
from tests.runs import card

pytestmark = pytest.mark.long

LENET = ("--backbone", "lenet", "--device", "cpu", "--precision", "fp32", "--workers", "0")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_planted(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def audited(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The JSON of an audit, and the folder that it wrote."""
    to = tmp_path_factory.mktemp("audit") / "found"
    done = typed("data", "audit", str(digits / "digits.csv"), *LENET, "--to", str(to), "--json", "--gallery", "5")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), to


def truth(digits: Path) -> dict[str, str]:
    with (digits / "true.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["label"] for row in csv.DictReader(file)}


def test_planted_errors_are_found_first(audited: tuple[dict[str, Any], Path], digits: Path) -> None:
    found, _ = audited
    errors = [one for one in found["problems"] if "label" in one["problems"]]
    ranked = [one["name"] for one in errors]
    assert len(set(ranked) & set(WRONG)) >= 10
    assert len(set(ranked) - set(WRONG)) <= 2
    assert [one["score"] for one in errors] == sorted(one["score"] for one in errors)
    right = [one["suggested"] == truth(digits)[one["name"]] for one in errors if one["name"] in WRONG]
    assert sum(right) >= len(right) - 1
    assert 0.03 < found["estimated_error_rate"] < 0.12
    assert {one["split"] for one in errors} == {"train"}
    assert found["images"] == COUNT


def test_the_table_and_the_gallery(audited: tuple[dict[str, Any], Path]) -> None:
    found, to = audited
    with (to / "label-errors.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["image"], r["given"], r["label"], r["action"]) for r in rows] == [
        (one["name"], one["given"], one["suggested"], "") for one in found["problems"]
    ]
    page = Page(to / "gallery.html")
    pictures = [Path((image["alt"] or "").partition(": ")[0]).name for image in page.images]
    labels = [one["name"] for one in found["problems"] if "label" in one["problems"]]
    assert pictures[:5] == labels[:5]
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert f"5 of {len(labels)} images" in page.sections["label-errors"]
    assert typed("data", "audit", ".", "--to", str(to)).returncode == 2


def test_scores_that_are_often_wrong_are_noted(digits: Path, audited: tuple[dict[str, Any], Path]) -> None:
    with (digits / "digits.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = [row["label"] for row in rows]
    with (digits / "shifted.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        third = len(rows) // 3
        for place, row in enumerate(rows):
            writer.writerow(row if place > third else {**row, "label": labels[(place * 7 + 3) % third]})
    done = typed("data", "audit", str(digits / "shifted.csv"), *LENET, "--json")
    assert done.returncode == 0, done.stderr
    (note,) = [note for note in json.loads(done.stdout)["notes"] if "so many of the labels listed are right" in note]
    assert note.startswith("the scores agree with ")
    assert not any("agree" in note for note in audited[0]["notes"])


def test_copies_with_two_labels_and_outliers(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits, tmp_path, dirs_exist_ok=True)
    labels = truth(tmp_path)
    for name in ("copy-1.png", "copy-2.png"):
        shutil.copy(tmp_path / "007.png", tmp_path / name)
    other = "d1" if labels["007.png"] != "d1" else "d2"
    rows = [*labels.items(), ("copy-1.png", labels["007.png"]), ("copy-2.png", other)]
    write_table(tmp_path / "t.csv", [("path", "label"), *rows])
    done = typed("data", "audit", str(tmp_path / "t.csv"), *LENET, "--json")
    assert done.returncode == 0, done.stderr
    copies = {one["name"]: one for one in json.loads(done.stdout)["problems"] if "duplicate" in one["problems"]}
    assert set(copies) == {"007.png", "copy-1.png", "copy-2.png"}
    assert copies["copy-2.png"]["suggested"] == labels["007.png"]
    assert copies["007.png"]["detail"] == f"copy of copy-2.png (train, {other})"


def test_unreadable_images_are_left_out_and_named(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits, tmp_path, dirs_exist_ok=True)
    (tmp_path / "004.png").write_bytes(b"")
    done = typed("data", "audit", str(tmp_path / "true.csv"), *LENET)
    assert done.returncode == 0, done.stderr
    assert "004.png: the file is empty" in done.stderr
    assert f"{COUNT - 1} images" in done.stdout


def test_several_labels_per_image(tmp_path: Path) -> None:
    write_digits(tmp_path)
    with (tmp_path / "digits.csv").open(encoding="utf-8", newline="") as file:
        rows = [list(row) for row in csv.reader(file)]
    planted = {}
    for row in rows[1:240:12]:
        labels = set(filter(None, row[1].split("|")))
        planted[row[0]] = "|".join(name for name in PROPERTIES if name in labels)
        row[1] = "|".join(name for name in PROPERTIES if (name in labels) != (name == "even"))
    write_table(tmp_path / "digits.csv", rows)
    done = typed("data", "audit", str(tmp_path / "digits.csv"), "--set", "dataset.separator=|", *LENET, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    errors = {one["name"]: one["suggested"] for one in found["problems"] if "label" in one["problems"]}
    assert len(planted) == 20
    assert len(set(errors) & set(planted)) >= 18
    assert sum(errors.get(name) == labels for name, labels in planted.items()) >= 15
    assert found["estimated_error_rate"] is None


def test_a_cross_fitted_run_gives_its_own_outputs(digits: Path, tmp_path: Path) -> None:
    dataset = {"name": "csv", "path": str(digits / "digits.csv")}
    settings: dict[str, Any] = {"validation": "kfold", "folds": 2, "epochs": 1, "strategy": "probe", "workers": 0}
    plan = ftkit.plan(dataset=dataset, backbone="lenet", device="cpu", output=str(tmp_path), name="run", **settings)
    ftkit.train(plan)
    done = typed("data", "audit", str(tmp_path / "run"), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["scores"] == f"out-of-fold outputs of {tmp_path / 'run'}"
    with (tmp_path / "run" / "out-of-fold.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert card(tmp_path / "run" / "model")["backbone"]["name"] == "lenet"
    errors = [one for one in found["problems"] if "label" in one["problems"]]
    assert len({one["name"] for one in errors} & set(WRONG)) >= 10
    for one in errors:
        assert one["score"] == pytest.approx(float(rows[one["name"]][one["given"]]), abs=1e-6)
    refused = typed("data", "audit", str(tmp_path / "run"), "--seed", "3")
    assert (refused.returncode, "--seed has no effect" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--weights", "none"), "has no pretrained weights, whose features the audit needs"),
        (("--backbone", "lenett"), "did you mean 'lenet'?"),
        (("--set", "epochs=3"), "only dataset, classes, label_map, backbone"),
    ],
)
def test_wrong_requests(digits: Path, args: tuple[str, ...], message: str) -> None:
    done = typed("data", "audit", str(digits / "true.csv"), "--backbone", "lenet", *args)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
