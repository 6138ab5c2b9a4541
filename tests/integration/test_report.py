"""`ftkit report`: one HTML file, whose numbers are those of `ftkit evaluate --json`."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import ftkit
from tests.conftest import MakeFolder, typed
from tests.inside import failing_report
from tests.models import save_model
from tests.report_page import Page
from tests.runs import plan

CLASSES = ("<b>ant</b>", 'bee "& co"', "cicada")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    root = tmp_path_factory.mktemp("data")
    folder = image_folder(root, {"train": dict.fromkeys("xyz", 6), "val": dict(zip("xyz", (4, 3, 2), strict=True))})
    for split in ("train", "val"):
        for old, new in zip("xyz", CLASSES, strict=True):
            (folder / split / old).rename(folder / split / new.replace("/", "∕"))
    # Wrong labels, so that no model is right on all images.
    ants, bees, cicadas = sorted(path for path in (folder / "val").iterdir())
    for one, other in ((ants / "0000.jpg", bees / "0000.jpg"), (ants / "0001.png", cicadas / "0001.png")):
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def names() -> tuple[str, ...]:
    return tuple(name.replace("/", "∕") for name in CLASSES)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    settings = {"backbone": "lenet", "strategy": "gradual", "weights": "default", "report": True}
    return ftkit.train(plan(data, tmp_path_factory.mktemp("runs"), name="mine", **settings)).run.path


@pytest.fixture(scope="module")
def measured(run: Path) -> dict[str, Any]:
    done = typed("evaluate", str(run), "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_training_writes_a_report(run: Path, measured: dict[str, Any], names: tuple[str, ...]) -> None:
    page = Page(run / "report.html")
    assert page.metrics == {name: pytest.approx(measured[name], abs=1e-12) for name in page.metrics}
    assert set(page.metrics) == {name for name in measured if isinstance(measured[name], float)} - {"tta"}
    assert [tuple(row) for row in page.rows["classes"][1:]] == [
        (c["name"], *(pytest.approx(c[key]) for key in ("support", "precision", "recall", "f1")))
        for c in measured["classes"]
    ]
    confusion = [
        [cell if isinstance(cell, float) else float(cell) for cell in row[1:]] for row in page.rows["confusion"][1:]
    ]
    assert confusion == measured["confusion"]
    assert [row[0] for row in page.rows["confusion"][1:]] == list(names)
    assert f"Calibration error {measured['calibration_error']:.4f}" in page.sections["reliability"]
    curve = measured["risk_coverage"]
    assert f"The area below the curve is {curve['area']:.4f}." in page.sections["rejection"]
    points = [[pytest.approx(p[key]) for key in ("coverage", "threshold", "risk")] for p in curve["points"]]
    assert all(row in points for row in page.rows["rejection"][1:])
    assert page.rows["rejection"][-1] == points[-1]


def test_intervals_are_those_of_evaluate(run: Path, measured: dict[str, Any]) -> None:
    text = Page(run / "report.html").text
    for name, bounds in measured["intervals"].items():
        card = text.split(f'data-metric="{name}"')[1].split('data-metric="')[0]
        found = [float(value) for value in re.findall(r'<data value="([^"]+)"', card)]
        assert found[1:3] == [pytest.approx(bounds["low"]), pytest.approx(bounds["high"])], name


def test_each_mistake_has_a_picture_with_path_label_and_prediction(run: Path, data: Path, tmp_path: Path) -> None:
    assert typed("evaluate", str(run), "--mistakes", str(tmp_path / "wrong.jsonl")).returncode == 0
    wrong = [json.loads(line) for line in (tmp_path / "wrong.jsonl").read_text().splitlines()]
    assert len(wrong) > 1
    page = Page(run / "report.html")
    alts = [image["alt"] or "" for image in page.images]
    assert alts[: len(wrong)] == [
        f"{one['image']}: label {one['label']}, predicted {one['predicted']}" for one in wrong
    ]
    right = [alt for alt in alts if ": label " in alt and ", predicted " in alt][len(wrong) :]
    assert len(wrong) + len(right) == 9, "the others are right"
    assert all((image["src"] or "").startswith("data:image/") for image in page.images)
    assert f"{len(wrong)} of {len(wrong)} mistakes" in page.sections["mistakes"]


def test_all_text_is_escaped_and_nothing_is_loaded(run: Path) -> None:
    page = Page(run / "report.html")
    assert "<b>ant" not in page.text
    assert all(link.startswith(("#", "data:")) for link in page.links)
    policy = unescape(re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page.text)[0])
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert " style=" not in page.text, "the policy forbids it"
    assert not re.search(r"\son\w+=", page.text)


def test_training_and_settings_are_those_of_the_run(run: Path, data: Path) -> None:
    page, shown = Page(run / "report.html"), json.loads(typed("runs", "show", str(run), "--json").stdout)
    rows = {int(row[0]): row for row in page.rows["curves"][1:]}
    for record in shown["records"]:
        assert rows[record["epoch"]][2:4] == [pytest.approx(record["val_loss"]), pytest.approx(record["val_accuracy"])]
    drift = {row[0]: row[2] for row in page.rows["drift"][1 : 1 + len(shown["weight_drift"])]}
    assert drift == {name: pytest.approx(value) for name, value in shown["weight_drift"].items()}
    assert [row[1:3] for row in page.rows["data"][1:]] == [[6, 4], [6, 3], [6, 2]]
    assert f"ftkit train --config {run}/config.yaml" in page.sections["commands"]
    assert "3 classes have fewer than 10 training images" in page.sections["data"]
    assert "also selected the best epoch" in page.sections["results"]
    assert (run / "config.yaml").read_text() in page.sections["settings"]


def test_the_command_writes_it_again_or_elsewhere(run: Path, tmp_path: Path) -> None:
    before = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    done = typed("report", str(run))
    assert (done.returncode, done.stdout) == (0, f"{run}/report.html\n"), done.stderr
    assert Page(run / "report.html").metrics == pytest.approx(_metrics(before, tmp_path))
    assert typed("report", run.name, "--output", str(run.parent), "--to", str(tmp_path / "new.html")).returncode == 0
    again = typed("report", str(run), "--to", str(tmp_path / "new.html"))
    assert again.returncode == 2
    assert "it exists already" in again.stderr


def _metrics(content: bytes, folder: Path) -> dict[str, float]:
    (folder / "before.html").write_bytes(content)
    return Page(folder / "before.html").metrics


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "RUN"], "a comparison of 2 runs is in no run's folder"),
        (["RUN", "RUN", "--to", "both.html", "--split", "train"], "runs are compared on val or test"),
        (["RUN", "--to", "report.pdf"], "its name doesn't end in .html"),
        (["RUN", "--split", "test"], "has no test split"),
        (["nowhere"], "nowhere"),
        (["RUN", "RUN", "--to", "both.html"], "is given twice"),
        (["MODEL"], "is a model without a run"),
        (["RUN", "--to", "missing/report.html"], "there is no folder missing"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str, run: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "model", CLASSES)
    places = {"RUN": str(run), "MODEL": str(tmp_path / "model")}
    done = typed("report", *(places.get(word, word) for word in arguments), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_commands_of_a_run_of_two_processes_start_two(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "two")
    facts = json.loads((tmp_path / "two" / "plan.json").read_text())
    (tmp_path / "two" / "plan.json").write_text(json.dumps({**facts, "world_size": 2}))
    assert typed("report", str(tmp_path / "two")).returncode == 0
    for report, wanted in ((tmp_path / "two" / "report.html", 2), (run / "report.html", 0)):
        page = Page(report)
        assert page.sections["commands"].count("--num-processes 2") == wanted
        assert ("2, each with batches of this size" in page.sections["settings"]) == (wanted > 0)


def test_a_file_of_a_run_that_is_missing_or_damaged_is_named(run: Path, tmp_path: Path) -> None:
    for name in ("gone", "broken", "bare"):
        shutil.copytree(run, tmp_path / name)
    (tmp_path / "gone" / "metrics.jsonl").unlink()
    assert f"{tmp_path}/gone/metrics.jsonl is missing" in _refused(tmp_path / "gone")
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
        file.write("{broken\n")
    lines = len((run / "metrics.jsonl").read_text().splitlines())
    assert f"{tmp_path}/broken/metrics.jsonl line {lines + 1} isn't what ftkit wrote" in _refused(tmp_path / "broken")
    card = next((tmp_path / "bare" / "model").resolve().glob("model.json"))
    card.unlink()
    done = typed("report", str(tmp_path / "bare"))
    assert (done.returncode, "model.json is missing" in done.stderr) == (0, True), done.stderr


def _refused(run: Path) -> str:
    done = typed("report", str(run))
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    settings = {"backbone": "lenet", "strategy": "freeze", "weights": "default", "seed": 3}
    return ftkit.train(plan(data, tmp_path_factory.mktemp("runs"), name="other", **settings)).run.path


def test_a_comparison_has_the_numbers_of_compare(run: Path, other: Path, tmp_path: Path) -> None:
    done = typed("report", str(run), str(other), "--to", str(tmp_path / "both.html"))
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/both.html\n"), done.stderr
    page = Page(tmp_path / "both.html")
    compared = json.loads(typed("compare", str(run), str(other), "--json").stdout)["runs"]
    metrics = list(compared[0]["metrics"])
    for row, one in zip(page.rows["metrics"][1:], compared, strict=True):
        assert row[1 : 1 + len(metrics)] == [pytest.approx(one["metrics"][name]["value"]) for name in metrics]
    against = compared[1]["against_baseline"]
    assert page.rows["differences"][1][:4] == [
        "other",
        against["only_this_correct"],
        against["only_baseline_correct"],
        pytest.approx(against["p"]),
    ]
    differences = [pytest.approx(against["differences"][name]["value"]) for name in metrics]
    assert page.rows["differences"][1][4:] == differences
    assert ["strategy.name", "gradual", "freeze"] in page.rows["settings"]
    assert "other: not significantly different from mine on 9 images" in page.sections["differences"]
    only = against["only_this_correct"] + against["only_baseline_correct"]
    assert len(page.images) == only
    assert all(link.startswith(("#", "data:")) for link in page.links)


def test_without_its_images_a_report_has_the_training_alone(run: Path, tmp_path: Path, data: Path) -> None:
    shutil.copytree(run, tmp_path / "moved")
    config = tmp_path / "moved" / "config.yaml"
    config.write_text(config.read_text().replace(str(data), str(tmp_path / "gone")))
    done = typed("report", str(tmp_path / "moved"))
    assert done.returncode == 0, done.stderr
    assert "warning: the report has no results: its images can't be read: " in done.stderr
    page = Page(tmp_path / "moved" / "report.html")
    assert {"curves", "schedule", "drift", "settings", "omitted"} <= set(page.sections)
    assert "results" not in page.sections
    assert "Results: its images can't be read" in page.sections["omitted"]


def test_no_report_where_none_is_wanted(data: Path, tmp_path: Path) -> None:
    flags = ("--data", str(data), "--backbone", "lenet", "--epochs", "0", "--output", str(tmp_path), "--name", "none")
    done = typed("train", "-q", *flags, "--no-report")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "none" / "report.html").exists()
    assert "report" not in done.stderr


def test_a_report_that_fails_is_a_warning(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_report(monkeypatch)
    flags = ("--data", str(data), "--backbone", "lenet", "--epochs", "0", "--output", str(tmp_path), "--name", "run")
    done = typed("train", "-q", *flags)
    assert done.returncode == 0
    assert f"warning: no report: ValueError broken; to write it: ftkit report {tmp_path}/run\n" in done.stderr
    assert "evaluate it:" in done.stdout


def test_trials_have_no_report(data: Path) -> None:
    flags = ("--data", str(data), "--backbone", "lenet", "--strategies", "freeze,full", "--report")
    done = typed("compare", *flags)
    assert done.returncode == 2
    assert "--report has no effect: trials have no report" in done.stderr


def test_several_labels_per_image(digits_run: Path) -> None:
    page = Page(digits_run / "report.html")
    measured = json.loads(typed("evaluate", str(digits_run), "--json").stdout)
    assert page.metrics == {name: pytest.approx(measured[name]) for name in page.metrics}
    assert {"map", "subset_accuracy", "micro_f1"} <= set(page.metrics)
    assert [tuple(row) for row in page.rows["classes"][1:]] == [
        tuple(
            value if key == "name" else pytest.approx(value)
            for key, value in c.items()
            if key in ("name", "support", "precision", "recall", "f1", "average_precision", "threshold")
        )
        for c in (
            {key: c[key] for key in ("name", "support", "precision", "recall", "f1", "average_precision", "threshold")}
            for c in measured["classes"]
        )
    ]
    assert "an image may have several labels" in page.sections["omitted"]
    reliability, calibration = page.sections["reliability"], measured["calibration"]
    assert f"Calibration error {calibration['error']:.4f}" in reliability
    assert calibration["method"] == "none" or (
        f"without it the error would be {calibration['uncalibrated_error']:.4f}" in reliability
    )
    wrong = round((1 - measured["subset_accuracy"]) * measured["images"])
    assert f"of {wrong} mistakes" in page.sections["mistakes"]


def test_many_classes_show_the_most_confused_pairs(tmp_path: Path, image_folder: MakeFolder) -> None:
    counts = {f"kind{i:02d}": 1 for i in range(35)} | {"kind07": 4}
    images = image_folder(tmp_path / "many", {"train": counts, "val": counts}, (12, 12))
    run = ftkit.train(
        plan(images, tmp_path / "runs", name="many", backbone="lenet", epochs=0, strategy="full", report=True)
    ).run.path
    measured, page = json.loads(typed("evaluate", str(run), "--json").stdout), Page(run / "report.html")
    names = [one["name"] for one in measured["classes"]]
    support = [one["support"] for one in measured["classes"]]
    wrong = sorted((-n, i, j) for i, row in enumerate(measured["confusion"]) for j, n in enumerate(row) if n and i != j)
    assert len(wrong) > 20
    assert "With 35 classes" in page.sections["confusion"]
    assert page.rows["confusion"][1:] == [[names[i], names[j], -n, pytest.approx(-n / support[i])] for n, i, j in wrong]
    assert "a curve needs two epochs or more" in page.sections["omitted"]
