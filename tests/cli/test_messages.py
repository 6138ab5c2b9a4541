"""Messages of commands: plurals, intervals, significance, and splits."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import pytest

from ftkit.cli.main import main
from ftkit.errors import RunInterrupted, plural
from tests.conftest import MakeFolder, RunFtkit


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "backbone", "1 backbone"),
        (0, "image", "0 images"),
        (2, "class", "2 classes"),
        (12345, "epoch", "12,345 epochs"),
    ],
)
def test_a_number_has_its_noun(number: int, noun: str, text: str) -> None:
    assert plural(number, noun) == text


def test_one_backbone_is_one(run_ftkit: RunFtkit) -> None:
    assert "1 backbone; parameters" in run_ftkit("backbones", "list", "alexnet").stdout


def test_a_run_reports_its_epochs_and_splits(tmp_path: Path, image_folder: MakeFolder, run_ftkit: RunFtkit) -> None:
    image_folder(tmp_path / "data", {"train": {"ants": 12, "bees": 8}, "test": {"ants": 3, "bees": 3}})
    arguments = ["train", "--data", "data", "--backbone", "lenet", "--weights", "none", "--strategy", "scratch"]
    reported = run_ftkit(*arguments, "--epochs", "1", "--name", "mine", cwd=tmp_path)
    assert reported.returncode == 0, reported.stderr
    assert "your own folder" not in reported.stdout
    assert re.search(r"^epoch 1: .* train \([\d,]+ parameters\)$", reported.stderr, re.MULTILINE)
    assert "1-1" not in reported.stderr
    run = tmp_path / "runs" / "mine"
    rows = list(csv.DictReader((run / "splits.csv").read_text(encoding="utf-8").splitlines()))
    sizes = {split: sum(row["split"] == split for row in rows) for split in ("train", "val", "test")}
    assert sizes == {"train": 16, "val": 4, "test": 6}
    assert {(row["name"], row["label"]) for row in rows} == {
        (str(path.relative_to(tmp_path / "data")), path.parent.name) for path in (tmp_path / "data").rglob("*.*")
    }
    assert "splits.csv" in run_ftkit("runs", "show", "mine", cwd=tmp_path).stdout
    shown = run_ftkit("evaluate", "mine", cwd=tmp_path)
    assert re.search(r"accuracy 0\.\d\d \[0\.\d\d, [01]\.\d\d\]", shown.stdout), shown.stdout
    assert "0.0000" not in shown.stdout
    found = json.loads(run_ftkit("evaluate", "mine", "--json", cwd=tmp_path).stdout)
    right = round(6 * found["accuracy"])
    assert found["intervals"]["accuracy"] == pytest.approx(dict(zip(("low", "high"), by_hand(right, 6), strict=True)))
    assert found["intervals"]["macro_f1"]["low"] <= found["macro_f1"] <= found["intervals"]["macro_f1"]["high"]


def by_hand(right: int, images: int) -> tuple[float, float]:
    """Wilson's interval by the textbook formula."""
    z, rate = 1.959964, right / images
    middle, half = rate + z**2 / (2 * images), z * math.sqrt(rate * (1 - rate) / images + z**2 / (4 * images**2))
    return (middle - half) / (1 + z**2 / images), (middle + half) / (1 + z**2 / images)


def test_an_interrupted_run_is_not_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(_: object) -> int:
        raise RunInterrupted("stopped after epoch 2, step 0 of 5; a checkpoint is on disk", "ftkit train --resume x", 2)

    monkeypatch.setattr("ftkit.cli.main._run", stop)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == (
        "interrupted: stopped after epoch 2, step 0 of 5; a checkpoint is on disk\nhint: ftkit train --resume x\n"
    )
