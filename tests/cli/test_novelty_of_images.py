"""`predict --novelty` and `ftkit shift`: images that a run's validation images are unlike."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ftkit
from ftkit import RequestError, Uncertainty
from tests.conftest import typed
from tests.runs import card


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the digits; its validation images as files, and images of noise."""
    work = tmp_path_factory.mktemp("novelty")
    settings: dict[str, Any] = {
        "backbone": "lenet", "weights": "default", "strategy": "freeze", "epochs": 1, "device": "cpu",
        "precision": "fp32", "workers": 0, "calibration": "off",
    }  # fmt: skip
    outcome = ftkit.train(ftkit.plan(output=str(work / "runs"), name="digits", **settings))
    val = ftkit.plan(work / "runs" / "digits" / "config.yaml").splits.val
    assert val is not None
    for folder in ("known", "noise"):
        (work / folder).mkdir()
    rng = np.random.default_rng(0)
    for number in range(120):
        picture = val[number][0]
        assert isinstance(picture, Image.Image)
        picture.save(work / "known" / f"{number:03d}.png")
        if number < 30:
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(work / "noise" / f"{number:03d}.png")
    assert outcome.run.path.is_dir()
    return work


@pytest.fixture(autouse=True)
def inside(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)


def rows(folder: str, *flags: str) -> list[Any]:
    done = typed("predict", folder, "--model", "runs/digits", "--json", *flags)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def shifted(folder: str) -> Any:
    done = typed("shift", folder, "--model", "runs/digits", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_card_has_a_reference_without_a_calibration() -> None:
    found = card(Path("runs/digits/model"))
    assert found["calibration"] is None
    assert found["reference"]["source"] == "validation images"
    assert found["reference"]["accuracy"] == pytest.approx(found["metrics"]["val_accuracy"])


def test_predictions_with_novelty() -> None:
    known, noise = rows("known", "--novelty", "0.05"), rows("noise", "--novelty", "0.05")
    assert np.mean([row["novelty"] for row in known]) == pytest.approx(0.5, abs=0.1)
    assert sum(row["unlike"] for row in known) <= 14
    assert all(row["unlike"] is (row["novelty"] <= 0.05) for row in known + noise)
    assert np.mean([row["novelty"] for row in noise]) < 0.25
    done = typed("predict", "noise", "--model", "runs/digits", "--novelty", "0.05", "--format", "csv")
    table = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["unlike"] == "true" for row in table] == [row["unlike"] for row in noise]
    assert [float(row["novelty"]) for row in table] == [row["novelty"] for row in noise]
    shown = typed("predict", "noise", "--model", "runs/digits", "--novelty", "0.05")
    assert shown.stdout.count("unlike the validation images") == sum(row["unlike"] for row in noise)
    assert f"{sum(row['unlike'] for row in noise)} of 30 images unlike the validation images" in shown.stderr


def test_features_of_training_images_find_more_than_the_energy(tmp_path: Path) -> None:
    done = typed("predict", "noise", "--model", "runs/digits", "--novelty", "0.05")
    assert "novelty (energy and distance to 1,000 training images)" in done.stderr
    shutil.copytree("runs/digits/model", tmp_path / "energy")
    (tmp_path / "energy" / "features.safetensors").unlink()
    done = typed("predict", "noise", "--model", str(tmp_path / "energy"), "--novelty", "0.05", "--json")
    assert "novelty (energy):" in done.stderr
    energy = [json.loads(line)["unlike"] for line in done.stdout.splitlines()]
    assert sum(row["unlike"] for row in rows("noise", "--novelty", "0.05")) > sum(energy)


def test_features_of_another_model_are_refused(tmp_path: Path) -> None:
    shutil.copytree("runs/digits/model", tmp_path / "other")
    file = tmp_path / "other" / "features.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    done = typed("predict", "noise", "--model", str(tmp_path / "other"), "--novelty", "0.05")
    assert done.returncode == 2
    assert f"{file} can't be used" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("settings", [{"validation": "kfold", "folds": 2}, {"novelty_features": False}])
def test_runs_with_and_without_features(settings: dict[str, Any], tmp_path: Path) -> None:
    own: dict[str, Any] = {"backbone": "lenet", "weights": "default", "strategy": "probe", "workers": 0}
    data = {"name": "folder", "root": str(class_folders(tmp_path))} if "validation" in settings else {"name": "digits"}
    run = ftkit.train(ftkit.plan(dataset=data, output=str(tmp_path / "runs"), name="run", **own, **settings)).run
    assert (run.model / "features.safetensors").is_file() is ("validation" in settings)
    (one,) = ftkit.load(run).predict(["known/000.png"], uncertainty=Uncertainty(novelty=0.05))
    assert one.novelty is not None
    assert 0 < one.novelty <= 1


def class_folders(folder: Path) -> Path:
    """The images of `known` without a validation split, in class folders by their number."""
    for number in range(120):
        target = folder / "data" / "train" / "ab"[number % 2]
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(f"known/{number:03d}.png", target)
    return folder / "data"


def test_a_shift_and_none() -> None:
    known, noise = shifted("known"), shifted("noise")
    assert known["p"] > 0.01 > 1e-4 > noise["p"]
    assert (known["images"], noise["images"], noise["left_out"]) == (120, 30, 0)
    reference = card(Path("runs/digits/model"))["reference"]
    assert known["accuracy"] == pytest.approx(reference["accuracy"], abs=0.06)
    assert noise["accuracy"] < known["accuracy"]
    (Path("noise") / "broken.png").write_bytes(b"no image")
    done = typed("shift", "noise", "--model", "runs/digits")
    assert done.returncode == 1
    assert "30 images compared with" in done.stdout
    assert "they differ" in done.stdout
    assert "1 of 31 images left out: noise/broken.png: " in done.stderr
    (Path("noise") / "broken.png").unlink()


def test_what_has_no_energy_is_refused() -> None:
    done = typed("predict", "known", "--model", "runs/digits", "--novelty", "0.05", "--tta", "flip")
    assert done.returncode == 2
    assert "novelty isn't known with tta flip" in done.stderr
    done = typed("predict", "known", "--model", "runs/digits", "--novelty", "2")
    assert "novelty is 2" in done.stderr
    model = ftkit.load("runs/digits")
    assert model.predict("known/000.png", uncertainty=Uncertainty(novelty=0.5))[0].novelty is not None
    with pytest.raises(RequestError, match="novelty is -1"):
        model.predict("known/000.png", uncertainty=Uncertainty(novelty=-1))
