"""`ftkit evaluate --slices`: groups of images by columns, properties and clusters, and which of them are worse."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest, false_discovery_control, fisher_exact

from tests.conftest import typed
from tests.models import Calibration, make_run, save_model

pytestmark = pytest.mark.long

CLASSES = ("ants", "bees")
CAMERAS = (("A", 40, 30), ("[/B]", 40, 4), ("C", 6, 3))
"""Cameras with their numbers of images, and how many of these show ants: the model says that all do."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of images of three cameras, whose images of B are dark, and a model that predicts ants for all."""
    folder, rng = tmp_path_factory.mktemp("slices"), np.random.default_rng(0)
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "camera", "hour", "id"))
        for camera, images, ants in CAMERAS:
            for number in range(images):
                name = f"{camera.strip('[/]')}-{number}.png"
                bright = 20 if camera == "[/B]" else 200
                pixels = rng.integers(bright - 15, bright + 15, (32, 32 + number % 3 * 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name)
                writer.writerow((name, CLASSES[number >= ants], camera, number % 24, name))
    (folder / "pictures").mkdir()
    for label in CLASSES:
        (folder / "pictures" / label).mkdir()
        for number in range(3):
            Image.new("RGB", (32, 32)).save(folder / "pictures" / label / f"{number}.png")
    make_run(folder / "run", folder / "pictures", CLASSES)
    return folder


def measured(work: Path, *flags: str) -> dict[str, Any]:
    done = typed("evaluate", "run", "--data", "table.csv", "--json", *flags, cwd=work)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rows_of(found: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["by"], row["group"]): row for row in found["slices"]["slices"]}


def test_a_column(work: Path) -> None:
    found = measured(work, "--slice-by", "camera")
    assert found["accuracy"] == pytest.approx(37 / 86)
    slices = found["slices"]
    assert (slices["metric"], slices["minimum"], slices["small"], slices["undivided"]) == (
        "accuracy",
        20,
        {"camera": 1},
        [],
    )
    first, second = slices["slices"]
    assert (first["group"], first["images"], first["value"]) == ("[/B]", 40, 0.1)
    assert first["rest"] == pytest.approx(33 / 46)
    wilson = binomtest(4, 40).proportion_ci(0.95, method="wilson")
    assert (first["interval"]["low"], first["interval"]["high"]) == pytest.approx((wilson.low, wilson.high))
    p = [fisher_exact([[4, 36], [33, 13]], "less").pvalue, fisher_exact([[30, 10], [7, 39]], "less").pvalue]
    assert [first["p"], second["p"]] == pytest.approx(p)
    assert [first["p_adjusted"], second["p_adjusted"]] == pytest.approx(list(false_discovery_control(p)))
    assert (first["worse"], second["worse"]) == (True, False)


def test_all_columns_and_properties(work: Path) -> None:
    found = measured(work, "--slices", "--min-slice", "10")
    rows = rows_of(found)
    assert {by for by, _ in rows} == {"camera", "hour", "aspect-ratio", "brightness", "sharpness"}
    assert found["slices"]["undivided"] == ["id", "size", "cluster"], "each id has one image, all sizes are 32"
    assert found["slices"]["small"]["id"] == 86
    dark = [row for (by, _), row in rows.items() if by == "brightness" and row["worse"]]
    assert [(row["images"], row["group"] < "0.1") for row in dark] == [(22, True)], "the dark quarter"
    assert {by: sum(row["images"] for (b, _), row in rows.items() if b == by) for by in ("hour", "aspect-ratio")} == {
        "hour": 86, "aspect-ratio": 86,
    }  # fmt: skip
    assert [group for by, group in rows if by == "aspect-ratio"] != []
    ordered = found["slices"]["slices"]
    assert [row["worse"] for row in ordered] == sorted((row["worse"] for row in ordered), reverse=True)


def test_the_table_names_the_worst(work: Path) -> None:
    done = typed("evaluate", "run", "--data", "table.csv", "--slice-by", "camera", cwd=work, env={"COLUMNS": "160"})
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    (row,) = (line for line in lines if line[:2] == ["camera", "[/B]"])
    assert row[2:8] == ["40", "0.10", "0.04", "to", "0.23", "0.72"]
    assert row[-1] == "*"
    assert "1 is worse in accuracy than the rest by more than chance, of 2 that were tested" in done.stdout
    assert "camera: 1 group with fewer than 20 images, or fewer others, is left out" in done.stdout


def test_the_metrics_are_those_without_slices(work: Path) -> None:
    plain = measured(work)
    assert "slices" not in plain
    found = measured(work, "--slices")
    del found["slices"]
    assert found == plain


def test_clusters_of_features(work: Path) -> None:
    done = typed("evaluate", "run", "--data", "table.csv", "--slice-by", "cluster", "--json", cwd=work)
    assert json.loads(done.stdout)["slices"]["undivided"] == ["cluster"], "86 images are too few for two clusters"
    more = work / "more.csv"
    lines = (work / "table.csv").read_text().splitlines()
    for number, line in enumerate(lines[1:41]):
        copy = f"copy-{number}.png"
        (work / copy).write_bytes((work / line.split(",")[0]).read_bytes())
        lines.append(line.replace(line.split(",")[0], copy))
    more.write_text("\n".join(lines))
    found = measured(work, "--slice-by", "cluster", "--data", "more.csv")
    rows = found["slices"]["slices"]
    assert sorted(row["images"] for row in rows) == [40, 86], "dark and bright images"
    assert all(len(row["examples"]) == 3 for row in rows)


def test_clusters_of_a_calibrated_model(work: Path, tmp_path: Path) -> None:
    """Its network has the calibration around the one that the backbone describes."""
    save_model(tmp_path / "model", CLASSES, calibration=Calibration("temperature", (2.0,)))
    flags = ("--data", "table.csv", "--slice-by", "cluster", "--min-slice", "5", "--json")
    done = typed("evaluate", str(tmp_path / "model"), *flags, cwd=work)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--min-slice", "5"), "--min-slice has no effect without --slices"),
        (("--slices", "--cache"), "--cache has no effect with --slices"),
        (("--slice-by", "kamera"), "--slice-by: unknown column or property 'kamera' (did you mean 'camera'?)"),
    ],
)
def test_what_is_refused(work: Path, flags: tuple[str, ...], message: str) -> None:
    done = typed("evaluate", "run", "--data", "table.csv", *flags, cwd=work)
    assert (done.returncode, done.stdout) == (2, "")
    assert message.replace(" (", "\n").split("\n")[0] in done.stderr


def test_an_ensemble_has_no_clusters(work: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "other", CLASSES)
    done = typed("ensemble", str(work / "run"), str(tmp_path / "other"), "--to", str(tmp_path / "both"))
    assert done.returncode == 0, done.stderr
    data = ("--data", "table.csv")
    refused = typed("evaluate", str(tmp_path / "both"), *data, "--slice-by", "cluster", cwd=work)
    assert refused.returncode == 2
    assert "an ensemble has no features of its own" in refused.stderr
    done = typed("evaluate", str(tmp_path / "both"), *data, "--slices", "--json", cwd=work)
    assert {row["by"] for row in json.loads(done.stdout)["slices"]["slices"]} >= {"camera", "brightness"}


def test_several_labels(work: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "model", CLASSES, task={"name": "multilabel"}, decision={"thresholds": [0.5, 0.5]})
    done = typed(
        "evaluate", str(tmp_path / "model"), "--data", "table.csv", "--set", "dataset.separator=|", "--json",
        "--slice-by", "camera", cwd=work,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    slices = json.loads(done.stdout)["slices"]
    assert slices["metric"] == "map"
    assert [row["p"] is not None and 0 <= row["p"] <= 1 for row in slices["slices"]] == [True, True]


def test_an_unreadable_image_is_named(work: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "table.csv").write_text("path,label\nbroken.png,ants\n")
    done = typed("evaluate", str(work / "run"), "--data", str(tmp_path / "table.csv"), "--slices")
    assert done.returncode == 1
    assert "broken.png" in done.stderr
