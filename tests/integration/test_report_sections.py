"""Sections of a report that need more than the outputs: heat maps, slices, probable label errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ftkit
from tests.conftest import typed
from tests.planted_errors import WRONG, write_planted
from tests.report_page import Page

MISTAKES, RIGHT, LABEL_ERRORS = 12, 6, 24
"""Pictures of a section at most."""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_planted(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def run(planted: Path) -> Path:
    plan = ftkit.plan(
        dataset={"name": "csv", "path": str(planted / "digits.csv")},
        backbone="lenet",
        strategy="probe",
        validation="kfold",
        folds=3,
        report=True,
        device="cpu",
        precision="fp32",
        workers=0,
        output=str(planted / "runs"),
        name="run",
    )
    return ftkit.train(plan).run.path


def json_of(*arguments: str) -> dict[str, Any]:
    done = typed(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_label_errors_are_those_of_the_audit(run: Path) -> None:
    page, audited = Page(run / "report.html"), json_of("data", "audit", str(run))
    errors = [one for one in audited["problems"] if "label" in one["problems"]]
    assert len(errors) > len(WRONG) / 2
    shown = [alt for image in page.images if "suggested" in (alt := image["alt"] or "")]
    assert [Path(alt.partition(": ")[0]).name for alt in shown] == [one["name"] for one in errors[:LABEL_ERRORS]]
    assert [alt.partition(": ")[2] for alt in shown] == [
        f"label {one['given']}, suggested {one['suggested']}" for one in errors[:LABEL_ERRORS]
    ]
    assert f"out-of-fold predictions: {len(shown)} of {len(errors)}" in page.sections["label-errors"]


def test_slices_are_those_of_evaluate(run: Path) -> None:
    rows = json_of("evaluate", str(run), "--slices")["slices"]["slices"]
    assert len(rows) > 5
    found = Page(run / "report.html").rows["slices"][1:]
    assert [row[:3] for row in found] == [
        [f"{one['by']} {one['group']}", one["images"], pytest.approx(one["value"])] for one in rows[: len(found)]
    ]
    assert [row[4] for row in found] == [pytest.approx(one["rest"]) for one in rows[: len(found)]]


def test_heat_maps_of_mistakes_and_of_right_predictions(run: Path) -> None:
    page = Page(run / "report.html")
    maps = [alt for image in page.images if "heat map of" in (alt := image["alt"] or "")]
    assert len(maps) == MISTAKES + RIGHT
    wrong = [alt for image in page.images if ", predicted " in (alt := image["alt"] or "")][:MISTAKES]
    assert [alt.partition(":")[0] for alt in maps[:MISTAKES]] == [alt.partition(":")[0] for alt in wrong]
    assert len({image["src"] for image in page.images}) > MISTAKES, "maps differ from the images"


def test_several_labels_per_image(digits_run: Path) -> None:
    page = Page(digits_run / "report.html")
    assert "Slices: no part of 60 images has 20 images or more" in page.sections["omitted"]
    maps = [alt for image in page.images if "heat map of" in (alt := image["alt"] or "")]
    measured = json_of("evaluate", str(digits_run))
    wrong = round((1 - measured["subset_accuracy"]) * measured["images"])
    assert len(maps) == min(MISTAKES, wrong) + RIGHT
    assert "Probable label errors: no label of the evaluated images is probably wrong" in page.sections["omitted"]
