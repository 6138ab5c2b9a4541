"""A run on a CSV file with several labels per image: trained with and without cached activations, and evaluated."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests.conftest import typed

COLOURS = ("red", "green", "blue")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng, rows = random.Random(0), []
    for number in range(40):
        image = Image.new("RGB", (28, 28))
        labels = [colour for colour in COLOURS if rng.random() < 0.5]
        for place, colour in enumerate(labels):
            ImageDraw.Draw(image).rectangle((9 * place, 9 * place, 9 * place + 8, 9 * place + 8), fill=colour)
        image.save(tmp_path / f"{number}.png")
        rows.append((f"{number}.png", " ".join(labels), *(int(colour in labels) for colour in COLOURS)))
    with (tmp_path / "table.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label", *COLOURS), *rows])
    return tmp_path


def test_a_table_with_several_labels_trains_and_is_evaluated(table: Path) -> None:
    options = ("--dataset", "csv", "--set", "dataset.path=table.csv", "--device", "cpu", "--workers", "0")
    cells, columns = ("--set", "dataset.separator=' '"), ("--set", "dataset.class_columns=[red, green, blue]")
    settings = ("--strategy", "freeze", "--epochs", "1", "--cache-dir", "cache")
    for name, labels, more in (("cells", cells, ()), ("columns", columns, ("--no-cache",))):
        done = typed("train", *options, *labels, *settings, *more, "--name", name, cwd=table)
        assert done.returncode == 0, done.stderr
    with (table / "runs/cells/splits.csv").open(encoding="utf-8", newline="") as file:
        listed = {row["name"]: row for row in csv.DictReader(file)}
    with (table / "table.csv").open(encoding="utf-8", newline="") as file:
        expected = {row["path"]: sorted(row["label"].split()) for row in csv.DictReader(file)}
    assert {name: row["label"].split("|") if row["label"] else [] for name, row in listed.items()} == expected
    assert sum(row["split"] == "val" for row in listed.values()) == pytest.approx(8, abs=3)
    done = typed("evaluate", "cells", "--split", "val", "--json", cwd=table)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == sum(row["split"] == "val" for row in listed.values())
