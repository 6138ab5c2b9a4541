"""`ftkit predict --explain` and `ftkit.load(...).explain`: heat maps of any images, in a folder, or as arrays."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ftkit
from ftkit.errors import RequestError
from ftkit.testing import draw_image
from tests.conftest import RunFtkit, typed
from tests.models import save_model

pytestmark = pytest.mark.long

CLASSES = ("ants", "[/bees]", "owls")
SIDE, PATCH = 28, 8


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model `mine`, and five photos, one of them unreadable, two of one name."""
    folder = tmp_path_factory.mktemp("work")
    save_model(folder / "mine", CLASSES)
    (folder / "photos" / "deep").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "deep/a.jpg", "deep/A.png")):
        draw_image(number, (40 + number, 32), name).save(folder / "photos" / name)
    (folder / "photos" / "empty.png").touch()
    return folder


def explained(work: Path, to: Path, *flags: str) -> tuple[int, list[dict[str, str]], str, str]:
    done = typed("predict", "photos", "--model", "mine", "--explain", str(to), *flags, cwd=work)
    index = to / "index.csv"
    rows = list(csv.DictReader(index.open(encoding="utf-8"))) if index.is_file() else []
    return done.returncode, rows, done.stdout, done.stderr


def test_each_image_has_an_overlay(work: Path, tmp_path: Path) -> None:
    code, rows, out, err = explained(work, tmp_path / "maps", "--json")
    assert code == 1, "one image can't be read"
    assert [(row["file"], row["overlay"]) for row in rows] == [
        ("photos/a.png", "a.jpg"), ("photos/b.jpg", "b.jpg"), ("photos/empty.png", ""),
        ("photos/deep/A.png", "A-2.jpg"), ("photos/deep/a.jpg", "a-3.jpg"),
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [
        "A-2.jpg", "a-3.jpg", "a.jpg", "b.jpg", "index.csv",
    ]  # fmt: skip
    assert f"4 heat maps in {tmp_path / 'maps'}, listed in {tmp_path / 'maps' / 'index.csv'}" in err
    assert rows[2]["error"]
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["label"] or "" for line in lines] == [row["label"] for row in rows]
    assert [row["explained"] for row in rows] == [row["label"] for row in rows]
    with Image.open(tmp_path / "maps" / "b.jpg") as overlay:
        assert overlay.size == (41, 32)


def test_the_predictions_are_those_without_heat_maps(work: Path, tmp_path: Path) -> None:
    _, _, with_maps, _ = explained(work, tmp_path / "maps", "--json", "--top-k", "3")
    plain = typed("predict", "photos", "--model", "mine", "--json", "--top-k", "3", cwd=work).stdout
    for one, other in zip(with_maps.splitlines(), plain.splitlines(), strict=True):
        ours, theirs = json.loads(one), json.loads(other)
        assert (ours["file"], ours["label"], ours["error"]) == (theirs["file"], theirs["label"], theirs["error"])
        assert ours["probability"] == pytest.approx(theirs["probability"], abs=1e-5)


def test_another_class_is_explained(work: Path, tmp_path: Path) -> None:
    _, rows, _, _ = explained(work, tmp_path / "maps", "--explain-class", "[/bees]")
    assert {row["explained"] for row in rows if not row["error"]} == {"[/bees]"}
    model = ftkit.load(work / "mine")
    maps = [model.explain(work / "photos" / "b.jpg", name) for name in CLASSES]
    assert all(each.shape == (32, 41) and each.dtype == np.float32 for each in maps)
    assert not np.array_equal(maps[0], maps[1])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--explain-class", "bee"), "unknown class 'bee'"),
        (("--tta", "flip"), "--explain can't be combined with --tta"),
        (("--num-processes", "2"), "--explain can't be combined with --num-processes"),
        (("--to", "all.csv", "--resume"), "--explain can't be combined with --resume"),
    ],
)
def test_what_has_no_effect_is_refused(work: Path, tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    code, _, _, err = explained(work, tmp_path / "maps", *flags)
    assert code == 2
    assert message in err
    assert not (tmp_path / "maps").exists()


def test_a_class_without_a_folder_is_refused(work: Path) -> None:
    done = typed("predict", "photos", "--model", "mine", "--explain-class", "owls", cwd=work)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--explain-class has no effect without --explain FOLDER" in done.stderr


def test_files_in_the_folder_are_kept(work: Path, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "mine.txt").write_text("mine")
    code, _, out, err = explained(work, tmp_path / "maps")
    assert (code, out) == (2, "")
    assert "the folder has files" in err
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["mine.txt"]


def test_arrays_and_unreadable_images(work: Path) -> None:
    model = ftkit.load(work / "mine")
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    assert model.explain(image).shape == (50, 70)
    with pytest.raises(ftkit.FtkitError, match="empty"):
        model.explain(work / "photos" / "empty.png")
    with pytest.raises(RequestError, match="unknown class"):
        model.explain(image, "wasps")


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise with a bright square in the upper half, class `up`, or in the lower half, class `down`; and a run on it."""
    folder = tmp_path_factory.mktemp("patches")
    rng = np.random.default_rng(0)
    for split, count in (("train", 60), ("val", 12)):
        for name, low in (("up", 0), ("down", SIDE // 2)):
            (folder / "data" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (SIDE, SIDE), dtype=np.uint8)
                top, left = low + rng.integers(SIDE // 2 - PATCH + 1), rng.integers(SIDE - PATCH + 1)
                pixels[top : top + PATCH, left : left + PATCH] += 190
                Image.fromarray(pixels).save(folder / "data" / split / name / f"{number}-{top}-{left}.png")
    flags = ("--backbone", "lenet", "--weights", "none", "--epochs", "6", "--batch-size", "8", "--augment", "none")
    done = typed("train", "--data", "data", *flags, "--lr", "0.003", "--set", "name=patches", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_map_lies_where_the_class_is_decided(patches: Path) -> None:
    model = ftkit.load(patches / "runs" / "patches")
    images = sorted((patches / "data" / "val").glob("*/*.png"))
    shares = []
    for one in model.iter_explain(images):
        top, left = (int(part) for part in Path(one.prediction.name).stem.split("-")[1:])
        assert one.prediction.label == Path(one.prediction.name).parent.name
        assert one.values is not None
        around = one.values[max(0, top - 2) : top + PATCH + 2, max(0, left - 2) : left + PATCH + 2]
        shares.append(around.sum() / one.values.sum())
    # The patch and two pixels around it are 12 x 12 of 28 x 28 pixels: 0.18.
    assert np.mean(shares) > 0.4


def test_an_ensemble_has_the_mean_of_its_members_maps(work: Path, tmp_path: Path, run_ftkit: RunFtkit) -> None:
    save_model(tmp_path / "other", CLASSES[::-1], "lenet")
    done = run_ftkit("ensemble", str(work / "mine"), str(tmp_path / "other"), "--to", str(tmp_path / "both"))
    assert done.returncode == 0, done.stderr
    image = work / "photos" / "b.jpg"
    both = ftkit.load(tmp_path / "both").explain(image, "ants")
    members = [ftkit.load(one).explain(image, "ants") for one in (work / "mine", tmp_path / "other")]
    assert all(each.max() == 1 for each in members)
    mean = (members[0] + members[1]) / 2
    assert both == pytest.approx(mean / mean.max(), abs=1e-4)


def test_several_labels(tmp_path: Path) -> None:
    save_model(tmp_path / "model", CLASSES, task={"name": "multilabel"}, decision={"thresholds": [0.0, 0.0, 1.0]})
    image = draw_image(1, (40, 32), "x")
    (found,) = ftkit.load(tmp_path / "model").iter_explain([image], top_k=3)
    assert found.prediction.labels is not None
    assert [name for name, _ in found.prediction.labels] == [n for n, _ in found.prediction.top if n != "owls"]
    assert found.explained == found.prediction.top[0][0]
