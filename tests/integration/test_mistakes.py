"""`ftkit evaluate --mistakes`: the images with a wrong prediction, the most confident first."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import MakeFolder, typed
from tests.models import make_run, save_model
from tests.multilabel import PROPERTIES, card, scores_of

CLASSES = ("[b]lue", "crimson", "gold")
FIRST, SECOND, THIRD = (math.exp(x) / sum(map(math.exp, (1, 0.5, 0))) for x in (1, 0.5, 0))
"""The probabilities of the three classes for every image."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    each = dict.fromkeys(CLASSES, 2)
    return image_folder(
        tmp_path_factory.mktemp("data"), {"train": each, "test": {"[b]lue": 2, "crimson": 2, "gold": 1}}
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "mine", data, CLASSES)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def test_a_table_has_path_label_prediction_score_and_margin(run: Path, data: Path, tmp_path: Path) -> None:
    done = typed("evaluate", str(run), "--mistakes", str(tmp_path / "wrong.csv"), "--json")
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/wrong.csv: 3 of 5 images with a wrong prediction\n" in done.stderr
    assert json.loads(done.stdout)["accuracy"] == 0.4
    wanted = [("crimson/0000.jpg", SECOND), ("crimson/0001.png", SECOND), ("gold/0000.jpg", THIRD)]
    assert [tuple(row.values()) for row in rows(tmp_path / "wrong.csv")] == [
        (str(data / "test" / name), name.partition("/")[0], "[b]lue", f"{FIRST:.6f}", f"{FIRST - own:.6f}")
        for name, own in wanted
    ]


def test_json_lines_have_the_same(run: Path, data: Path, tmp_path: Path) -> None:
    assert typed("evaluate", str(run), "--mistakes", str(tmp_path / "wrong.jsonl")).returncode == 0
    found = [json.loads(line) for line in (tmp_path / "wrong.jsonl").read_text().splitlines()]
    assert found[2] == {
        "image": str(data / "test" / "gold" / "0000.jpg"),
        "label": "gold",
        "predicted": "[b]lue",
        "score": round(FIRST, 6),
        "margin": round(FIRST - THIRD, 6),
    }


def test_a_folder_has_links_by_pair_of_classes(run: Path, data: Path, tmp_path: Path) -> None:
    done = typed("evaluate", str(run), "--mistakes", str(tmp_path / "wrong"))
    assert done.returncode == 0, done.stderr
    assert "3 of 5 images with a wrong prediction, in 2 folders\n" in done.stderr
    found = {str(path.relative_to(tmp_path / "wrong")): path.readlink() for path in tmp_path.glob("wrong/*/*")}
    assert found == {
        "crimson--[b]lue/1-0.506-0000.jpg": data / "test/crimson/0000.jpg",
        "crimson--[b]lue/2-0.506-0001.png": data / "test/crimson/0001.png",
        "gold--[b]lue/3-0.506-0000.jpg": data / "test/gold/0000.jpg",
    }


def test_where_links_are_impossible_images_are_copied(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError("not here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    done = typed("evaluate", str(run), "--mistakes", str(tmp_path / "wrong"))
    assert "in 2 folders, 3 of them copied\n" in done.stderr
    copy = tmp_path / "wrong/gold--[b]lue/3-0.506-0000.jpg"
    assert copy.read_bytes() == (data / "test/gold/0000.jpg").read_bytes()
    assert not copy.is_symlink()


def test_images_that_are_no_files_are_written(tmp_path: Path) -> None:
    done = typed("train", "-q", "--output", str(tmp_path), "--name", "run", "--epochs", "0", "--weights", "none")
    assert done.returncode == 0, done.stderr
    assert typed("evaluate", str(tmp_path / "run"), "--mistakes", str(tmp_path / "wrong")).returncode == 0
    found = sorted(tmp_path.glob("wrong/*--*/*.png"))
    assert len(found) > 100
    assert Image.open(found[0]).size == (12, 12)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong.txt", "its name doesn't end in .csv or .jsonl"),
        ("missing/wrong.csv", "there is no folder"),
        ("there.csv", "it exists already"),
        ("there", "it exists already"),
    ],
)
def test_what_is_refused_is_refused_before_the_evaluation(name: str, message: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "there").mkdir()
    done = typed("evaluate", str(run), "--mistakes", str(tmp_path / name))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--mistakes {tmp_path / name}: {message}" in done.stderr
    assert (tmp_path / "there.csv").read_text() == "mine"


def test_without_a_mistake_the_table_has_its_heading(run: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "[b]lue").symlink_to(data / "test" / "[b]lue")
    done = typed("evaluate", str(run), "--data", str(tmp_path / "only"), "--mistakes", str(tmp_path / "wrong.csv"))
    assert "0 of 2 images with a wrong prediction" in done.stderr
    assert (tmp_path / "wrong.csv").read_bytes() == b"image,label,predicted,score,margin\r\n"


def test_names_that_no_folder_may_have(data: Path, tmp_path: Path) -> None:
    classes = ("a/b", "..", "x" * 300)
    source = data / "test" / "gold" / "0000.jpg"
    table = [(source, classes[0]), (data / "test/crimson/0000.jpg", ".."), (data / "test/crimson/0001.png", "x" * 300)]
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *table])
    model = save_model(tmp_path / "model", classes)
    flags = ("--data", str(tmp_path / "list.csv"), "--mistakes", str(tmp_path / "w"))
    done = typed("evaluate", str(model), *flags)
    assert done.returncode == 0, done.stderr
    folders = sorted(path.name for path in (tmp_path / "w").iterdir())
    assert len(folders) == 2
    assert all(len(name) <= 130 and name.count("--") == 1 for name in folders)
    assert all(path.resolve().is_file() for path in (tmp_path / "w").glob("*/*"))


def test_of_several_labels_every_wrong_decision_counts(digits_run: Path, digits: Path, tmp_path: Path) -> None:
    flags = ("--device", "cpu", "--precision", "fp32")
    done = typed("evaluate", str(digits_run), *flags, "--mistakes", str(tmp_path / "wrong.jsonl"), "--json")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in (tmp_path / "wrong.jsonl").read_text().splitlines()]
    scores, targets = scores_of(digits_run, digits, "test")
    thresholds, names = card(digits_run)["decision"]["thresholds"], sorted(PROPERTIES)
    wanted = {}
    for place, (row, truth) in enumerate(zip(scores.tolist(), targets.tolist(), strict=True)):
        decisions = [
            (p if p > t else 1 - p, abs(p - t))
            for p, t, own in zip(row, thresholds, truth, strict=True)
            if (p > t) != own
        ]
        if decisions:
            labels = [name for name, own in zip(names, truth, strict=True) if own]
            predicted = [name for name, p, t in zip(names, row, thresholds, strict=True) if p > t]
            wanted[str(digits / f"test{place:03d}.png")] = (labels, predicted, *max(decisions))
    assert len(found) == len(wanted) == round((1 - json.loads(done.stdout)["subset_accuracy"]) * len(scores))
    for one in found:
        labels, predicted, score, margin = wanted[one["image"]]
        assert (one["label"], one["predicted"]) == (labels, predicted)
        assert (one["score"], one["margin"]) == (pytest.approx(score, abs=2e-5), pytest.approx(margin, abs=2e-5))
    assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
