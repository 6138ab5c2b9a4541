"""`dataset.value_range` through the whole: config, plan, run, model, predictions, and a resumed run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ftkit
from tests.conftest import RunFtkit
from tests.predictions import alike
from tests.runs import config

SIZE = 32


def scans(root: Path, most: float, kind: type = np.uint16) -> Path:
    """Squares that are brighter on the left or on the right, with values up to `most`."""
    random = np.random.default_rng(0)
    for name, side in (("left", slice(0, 16)), ("right", slice(16, 32))):
        (root / name).mkdir(parents=True)
        for number in range(10):
            values = random.uniform(0, 0.3, (SIZE, SIZE))
            values[:, side] += 0.6
            suffix = "tiff" if kind is np.float32 else "png"
            Image.fromarray((values / 0.9 * most).astype(kind)).save(root / name / f"{number}.{suffix}")
    return root


TRAIN = ["train", "--backbone", "lenet", "--weights", "none", "--epochs", "2", "--augment", "none", "--name", "r", "-q"]


def plan_of(**more: object) -> ftkit.Plan:
    return ftkit.plan(backbone="lenet", weights="none", **more)  # type: ignore[arg-type]


def test_a_guess_is_reported(tmp_path: Path) -> None:
    data = {"name": "folder", "root": scans(tmp_path / "d", 4095)}
    notes = [note for note in plan_of(dataset=data).notes if "more than 8 bits" in note]
    assert len(notes) == 1
    assert notes[0].startswith("20 images of more than 8 bits don't declare the values of black and white: 0 to 65535")
    assert "set dataset.value_range=[0, 4095] if they have 12 bits" in notes[0]
    again = [note for note in plan_of(dataset=data).notes if "more than 8 bits" in note]
    assert again == notes, "from memory too"
    messages = plan_of(dataset={**data, "value_range": [0, 4095]})
    assert not any("more than 8 bits" in note for note in messages.notes)
    assert messages.preprocessing.value_range == (0.0, 4095.0)
    assert messages.to_json()["preprocessing"]["value_range"] == (0, 4095)


def test_the_setting_goes_with_the_model(run_ftkit: RunFtkit, tmp_path: Path) -> None:
    data = scans(tmp_path / "d", 4095)
    done = run_ftkit(*TRAIN, "--data", str(data), "--set", "dataset.value_range=[0, 4095]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "r"
    assert config(run)["dataset"]["value_range"] == [0, 4095]
    assert json.loads((run / "model" / "model.json").read_text())["preprocessing"]["value_range"] == [0, 4095]
    model = ftkit.load(run, device="cpu")
    assert model.preprocessing.value_range == (0.0, 4095.0)
    file = data / "left" / "0.png"
    eight = Image.fromarray((np.asarray(Image.open(file)) / 4095 * 255).round().astype(np.uint8))
    assert alike(*model.predict([file, Image.open(file), file.read_bytes(), eight]))
    done = run_ftkit("train", "--resume", "runs/r", "--extend", "1", "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_floats_are_read_by_one_rule_that_is_kept(run_ftkit: RunFtkit, tmp_path: Path) -> None:
    data = scans(tmp_path / "d", 250.0, np.float32)
    dim = np.full((SIZE, SIZE), 0.9, dtype=np.float32)
    Image.fromarray(dim).save(data / "left" / "dim.tiff")
    done = run_ftkit(*TRAIN, "--data", str(data), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    model = ftkit.load(tmp_path / "runs" / "r", device="cpu")
    assert model.preprocessing.value_range == (0.0, 255.0)
    black = Image.new("L", (SIZE, SIZE), 1)
    assert alike(*model.predict(data / "left" / "dim.tiff"), *model.predict(black))
    assert config(tmp_path / "runs" / "r")["dataset"]["value_range"] == [0, 255]


@pytest.mark.parametrize("text", ["[4095, 0]", "[1]", "4095", "[0, .inf]", "[a, b]", "none"])
def test_a_range_that_is_none(run_ftkit: RunFtkit, tmp_path: Path, text: str) -> None:
    done = run_ftkit("plan", "--set", f"dataset.value_range={text}", cwd=tmp_path)
    assert done.returncode == 2
    assert "dataset.value_range: must be" in done.stderr
    assert "two numbers" in done.stderr


def test_it_is_in_the_schema_and_in_hints(run_ftkit: RunFtkit, tmp_path: Path) -> None:
    schema = json.loads(run_ftkit("config", "schema", cwd=tmp_path).stdout)
    some = [one for one in schema["properties"]["dataset"]["oneOf"] if "properties" in one]
    assert all("value_range" in one["properties"] for one in some)
    done = run_ftkit("plan", "--set", "dataset.value_rnage=[0, 4095]", cwd=tmp_path)
    assert "did you mean 'value_range'?" in done.stderr


def test_it_stays_when_the_data_is_named_elsewhere(run_ftkit: RunFtkit, tmp_path: Path) -> None:
    scans(tmp_path / "d", 4095)
    plan = ("plan", "--backbone", "lenet", "--weights", "none", "--data", "d")
    by_env = run_ftkit(*plan, cwd=tmp_path, env={"FTKIT_DATASET__VALUE_RANGE": "[0, 4095]"})
    assert "values of 0 to 4095" in by_env.stdout, by_env.stderr
    (tmp_path / "ftkit.yaml").write_text("dataset: {name: csv, path: x.csv, value_range: [0, 4095]}\n")
    assert "values of 0 to 4095" in run_ftkit(*plan, cwd=tmp_path).stdout


def test_one_that_changes_no_image_is_reported(run_ftkit: RunFtkit, tmp_path: Path) -> None:
    done = run_ftkit("plan", "--set", "dataset.value_range=[0, 4095]", "--strategy", "freeze", cwd=tmp_path)
    assert "has no effect" in " ".join(done.stdout.split())
