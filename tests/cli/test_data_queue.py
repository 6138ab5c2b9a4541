"""`ftkit data queue`: tables and Label Studio tasks of a model's run, and of a model alone."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit.testing import draw_image, make_image_folder
from tests.conftest import typed
from tests.models import Calibration, save_model

pytestmark = pytest.mark.long

EXACT = ("--device", "cpu", "--precision", "fp32")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 24 images of two classes, 12 unlabelled images of which one is unreadable, and models without a run."""
    folder = tmp_path_factory.mktemp("queue")
    data = make_image_folder(folder / "data", {"train": {"a": 8, "b": 8}, "val": {"a": 4, "b": 4}})
    settings: dict[str, Any] = {"backbone": "lenet", "weights": "default", "strategy": "probe", "workers": 0}
    plan = ftkit.plan(
        dataset={"name": "folder", "root": str(data)}, output=str(folder / "runs"), name="run", device="cpu", **settings
    )
    ftkit.train(plan)
    (folder / "new" / "inner folder").mkdir(parents=True)
    for number in range(11):
        place = folder / "new" / ("inner folder" if number % 2 else "")
        draw_image(number, (40, 32), f"new/{number}").save(place / f"[{number}].png")
    (folder / "new" / "broken.png").write_bytes(b"no image")
    save_model(
        folder / "several", ("x", "y"), "lenet", task={"name": "multilabel"}, decision={"thresholds": [0.5, 0.5]}
    )
    calibration = Calibration("temperature", (0.5,), source="validation images", images=99)
    save_model(folder / "calibrated", ("x", "y"), "lenet", calibration=calibration)
    return folder


def queue(work: Path, *args: object, model: str = "runs/run") -> dict[str, Any]:
    done = typed("data", "queue", str(work / "new"), "--model", str(work / model), *map(str, args), *EXACT, "--json")
    assert done.returncode == 0, done.stderr
    assert "1 of 12 images can't be used" in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def names(found: dict[str, Any]) -> list[str]:
    return [image["name"] for image in found["images"]]


def test_each_readable_image_once(work: Path) -> None:
    found = queue(work)
    assert (found["strategy"], found["candidates"]) == ("typical", 11)
    assert found["reason"] == "the model was trained on 8 images per class"
    assert sorted(names(found)) == sorted(f"{'inner folder/' if n % 2 else ''}[{n}].png" for n in range(11))
    assert list(found["unreadable"]) == [str(work / "new" / "broken.png")]
    assert names(queue(work)) == names(found)


@pytest.mark.parametrize("model", ["runs/run", "calibrated"])
def test_scores_are_those_of_predict(model: str, work: Path) -> None:
    found = queue(work, "--strategy", "uncertain", model=model)
    done = typed("predict", str(work / "new"), "--model", str(work / model), "--top-k", "2", "--json", *EXACT)
    predicted = {row["file"]: row for row in map(json.loads, done.stdout.splitlines()) if row["label"]}
    for image in found["images"]:
        row = predicted[str(work / "new" / image["name"])]
        assert image["predicted"] == [row["label"]]
        assert image["probability"] == pytest.approx(row["probability"], abs=1e-5)
        assert image["margin"] == pytest.approx(row["top"][0]["probability"] - row["top"][1]["probability"], abs=1e-5)
    least = sorted(found["images"], key=lambda image: image["margin"])[:10]
    few = queue(work, "--strategy", "uncertain", "--count", 1)
    assert names(few)[0] in [image["name"] for image in least]


def test_a_table_to_be_filled_in(work: Path, tmp_path: Path) -> None:
    found = queue(work, "--count", 4, "--to", tmp_path / "queue.csv")
    with (tmp_path / "queue.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["label"], row["rank"]) for row in rows] == [
        (name, "", str(rank)) for rank, name in enumerate(names(found), 1)
    ]
    assert [float(row["margin"]) for row in rows] == pytest.approx([one["margin"] for one in found["images"]], abs=1e-4)


def test_tasks_of_label_studio(work: Path, tmp_path: Path) -> None:
    found = queue(work, "--count", 3, "--to", tmp_path / "tasks.json", "--format", "label-studio")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert [task["data"]["path"] for task in tasks] == names(found)
    first, image = tasks[0], found["images"][0]
    quoted = image["name"].replace(" ", "%20").replace("[", "%5B").replace("]", "%5D")
    assert first["data"]["image"] == f"/data/local-files/?d={quoted}"
    assert first["predictions"] == [
        {
            "model_version": str(work / "runs" / "run" / "model"),
            "score": image["probability"],
            "result": [
                {"from_name": "choice", "to_name": "image", "type": "choices", "value": {"choices": image["predicted"]}}
            ],
        }
    ]
    queue(work, "--count", 1, "--to", tmp_path / "web.json", "--url-prefix", "https://example.org/")
    assert json.loads((tmp_path / "web.json").read_text())[0]["data"]["image"].startswith("https://example.org/")


def test_a_model_alone_with_several_labels(work: Path) -> None:
    found = queue(work, "--count", 5, model="several")
    assert (found["strategy"], len(found["images"])) == ("uncertain", 5)
    assert "has no run with its data" in found["reason"]
    assert all(set(image["predicted"]) <= {"x", "y"} for image in found["images"])


def test_a_run_whose_data_is_gone(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "runs", tmp_path / "runs")
    config = tmp_path / "runs" / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(work / "data"), str(tmp_path / "gone")))
    done = typed("data", "queue", str(work / "new"), "--model", str(tmp_path / "runs/run"), "--count", "2", *EXACT)
    assert done.returncode == 0, done.stderr
    assert "aren't used: " in done.stderr
    assert done.stdout.startswith("uncertain: ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nowhere",), "nowhere is not a folder"),
        (("data/train/a/0000.jpg",), "is not a folder"),
        (("new", "--format", "csv"), "--format csv has no effect without --to"),
        (("new", "--to", "q.txt"), "its name doesn't end in .csv, .json"),
        (("new", "--to", "q.csv", "--format", "label-studio"), "its name doesn't end in .json"),
        (("new", "--to", "q.csv", "--url-prefix", "x"), "--url-prefix has no effect"),
    ],
)
def test_wrong_requests(work: Path, args: tuple[str, ...], message: str) -> None:
    done = typed("data", "queue", *args, "--model", "runs/run", cwd=work)
    assert done.returncode == 2
    assert message in done.stderr
