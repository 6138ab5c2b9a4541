"""The default with a validation split, or with many images: recipes are compared on validation images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import ftkit
from ftkit.errors import RunInterrupted
from tests.conftest import MakeFolder, typed
from tests.report_page import Page
from tests.runs import Notes, records, weights
from tests.searches import FEW, search_of, without_seconds
from tests.stopping import StopAt, train_until_killed

SETTINGS: dict[str, Any] = {
    "backbone": "lenet",
    "batch_size": 8,
    "epochs": 2,
    "precision": "fp32",
    "workers": 0,
    "report": False,
}
RECIPES = ["as-given", "two-rates", "two-rates-new-head", "one-rate"]
MANY = {"a": 1300, "b": 1301}
"""Training images of each class, after a fifth is held out, more than twice those that a recipe is trained on."""


def planned(data: Path, where: Path, **settings: Any) -> ftkit.Plan:
    folder = {"name": "folder", "root": str(data)}
    return ftkit.plan(**(SETTINGS | {"dataset": folder, "output": str(where)} | settings))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    counts = {"train": FEW, "val": dict.fromkeys(FEW, 3), "test": dict.fromkeys(FEW, 2)}
    return image_folder(tmp_path_factory.mktemp("data"), counts)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return ftkit.train(planned(data, tmp_path_factory.mktemp("runs"), name="whole")).run.path


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    return image_folder(tmp_path_factory.mktemp("many"), {"train": MANY}, size=(28, 28))


@pytest.fixture(scope="module")
def many_of_both(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    counts = {"train": MANY, "val": {"a": 600, "b": 600}}
    return image_folder(tmp_path_factory.mktemp("many-of-both"), counts, size=(28, 28))


def sampled(data: Path, where: Path, **settings: Any) -> ftkit.Plan:
    return planned(data, where, **({"epochs": 1, "batch_size": 64, "scan": "off"} | settings))


@pytest.fixture(scope="module")
def sampled_run(tmp_path_factory: pytest.TempPathFactory, many: Path) -> tuple[Path, list[str]]:
    notes = Notes()
    outcome = ftkit.train(sampled(many, tmp_path_factory.mktemp("runs"), name="whole"), notes)
    return outcome.run.path, notes.notes


def test_each_recipe_is_trained_once_and_the_best_is_the_run(run: Path) -> None:
    search, config = search_of(run), yaml.safe_load((run / "config.yaml").read_text())
    assert [trial["name"] for trial in search["trials"]] == RECIPES
    assert (search["budget"], search["folds"], search["samples"]) == (None, 1, {})
    assert search["reason"] == "each was trained once"
    assert [len(trial["scores"]) for trial in search["trials"]] == [1, 1, 1, 1]
    values = {trial["name"]: trial["scores"][0]["value"] for trial in search["trials"]}
    assert values[search["winner"]] == max(values.values())
    assert (config["budget"], config["validation"], config["train_samples"]) == (None, "holdout", None)
    assert not (run / "trials").exists()
    (best,) = (line for line in records(run) if line["val_accuracy"] == values[search["winner"]])
    assert best["val_loss"] == next(t["scores"][0]["loss"] for t in search["trials"] if t["name"] == search["winner"])


def test_the_config_of_the_run_trains_its_winner_alone(run: Path, tmp_path: Path) -> None:
    again = ftkit.train(ftkit.plan(run / "config.yaml", output=str(tmp_path), name="again")).run.path
    assert not (again / "search.json").exists()
    assert weights(again, "model") == weights(run, "model")


@pytest.mark.parametrize("step", [pytest.param(3, marks=pytest.mark.long), 14])
def test_stopped_and_resumed_equals_never_stopped(step: int, run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, tmp_path, name="cut"), StopAt(step))
    ftkit.resume(tmp_path / "cut")
    assert without_seconds(search_of(tmp_path / "cut")) == without_seconds(search_of(run))
    assert weights(tmp_path / "cut", "model") == weights(run, "model")


def test_of_many_images_each_recipe_is_trained_on_a_sample(sampled_run: tuple[Path, list[str]]) -> None:
    run, notes = sampled_run
    search, config = search_of(run), yaml.safe_load((run / "config.yaml").read_text())
    assert search["samples"] == {"train_samples": 1000}
    assert [len(trial["scores"]) for trial in search["trials"]] == [1, 1, 1, 1]
    assert config["train_samples"] is None
    assert json.loads((run / "plan.json").read_text())["data"]["train"] == 2081
    assert not (run / "trials").exists()
    assert any(note.endswith("it is trained on all images") for note in notes)


def test_the_json_of_a_plan_has_the_size_of_the_sample(many: Path, data: Path, tmp_path: Path) -> None:
    for folder, wanted in ((many, {"train_samples": 1000}), (data, None)):
        done = typed("plan", "--data", str(folder), "--backbone", "lenet", "--json", cwd=tmp_path)
        assert json.loads(done.stdout)["recipe_samples"] == wanted


def test_the_report_has_the_recipes(sampled_run: tuple[Path, list[str]]) -> None:
    run, search = sampled_run[0], search_of(sampled_run[0])
    done = typed("report", str(run), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    page = Page(run / "report.html")
    assert [row[0] for row in page.rows["recipes"]][-4:] == RECIPES
    values = [trial["scores"][0]["value"] for trial in search["trials"]]
    assert [row[2] for row in page.rows["recipes"]][-4:] == [pytest.approx(value, abs=1e-6) for value in values]
    assert "trained on 1,000 images" in page.sections["recipes"]
    assert "of training; comparing recipes took" in page.text


@pytest.mark.long
@pytest.mark.parametrize("when", ["two-rates-new-head", "is trained on all images"])
def test_killed_and_resumed_equals_never_killed(
    when: str, sampled_run: tuple[Path, list[str]], many: Path, tmp_path: Path
) -> None:
    place = {"dataset": {"name": "folder", "root": str(many)}, "output": str(tmp_path), "name": "cut"}
    train_until_killed(when, SETTINGS | {"epochs": 1, "batch_size": 64, "scan": "off"} | place)
    done = typed("train", "--resume", str(tmp_path / "cut"), "--json")
    assert done.returncode == 0, done.stderr
    assert without_seconds(search_of(tmp_path / "cut")) == without_seconds(search_of(sampled_run[0]))
    assert weights(tmp_path / "cut", "model") == weights(sampled_run[0], "model")


def test_the_validation_images_of_a_recipe_are_a_sample_of_many(many_of_both: Path, tmp_path: Path) -> None:
    flags = ["--data", str(many_of_both), "--backbone", "lenet", "--scan", "off"]
    shown = typed("plan", *flags, cwd=tmp_path)
    assert "compared on the validation images by a training of each on 1,000 images" in " ".join(shown.stdout.split())
    found = json.loads(typed("plan", *flags, "--json", cwd=tmp_path).stdout)
    assert found["recipe_samples"] == {"train_samples": 1000, "val_samples": 1000}


@pytest.mark.long
def test_a_run_whose_recipes_are_evaluated_on_a_sample_is_evaluated_on_all(many_of_both: Path, tmp_path: Path) -> None:
    run = ftkit.train(sampled(many_of_both, tmp_path / "runs", name="one")).run.path
    assert search_of(run)["samples"] == {"train_samples": 1000, "val_samples": 1000}
    assert json.loads((run / "plan.json").read_text())["data"] == {"train": 2601, "val": 1200}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"strategy": "full"}, "strategy is set"),
        pytest.param({"augment": "none"}, "augment is set", marks=pytest.mark.long),
        pytest.param({"optimizer": {"lr": 0.01}}, "optimizer.lr is set", marks=pytest.mark.long),
        pytest.param({"probe": False}, "probe is set", marks=pytest.mark.long),
        ({"weights": "none"}, "the weights start at random"),
        ({"epochs": 0}, "no epochs are trained"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_recipe_is_trained(settings: dict[str, Any], reason: str, data: Path, tmp_path: Path) -> None:
    run = ftkit.train(planned(data, tmp_path / "runs", name="one", **({"epochs": 1} | settings))).run.path
    assert not (run / "search.json").exists()
    config = tmp_path / "c.yaml"
    settings = SETTINGS | {"dataset": {"name": "folder", "root": str(data)}} | settings
    config.write_text(yaml.safe_dump(settings))
    shown = typed("plan", "--config", str(config), "--budget", "auto", cwd=tmp_path)
    assert f"none are compared: {reason}" in shown.stdout, shown.stderr


def test_val_samples_limits_the_validation_images(data: Path, tmp_path: Path) -> None:
    plan = planned(data, tmp_path, val_samples=4, budget=None)
    assert {name: len(split) for name, split in plan.splits.present()} == {"train": 20, "val": 4, "test": 6}
    run = ftkit.train(plan).run.path
    assert typed("evaluate", str(run), "--split", "val", "--json").stdout.count('"support"') >= 1
    done = typed("train", "--data", str(data), "--val-samples", "400", "--backbone", "lenet", cwd=tmp_path)
    assert done.returncode == 2
    assert "val_samples is 400, but there are 9 validation images" in done.stderr


def test_val_samples_has_no_effect_on_cross_fitting(few_images: Path, tmp_path: Path) -> None:
    flags = ["--data", str(few_images), "--backbone", "lenet", "--val-samples", "3"]
    done = typed("plan", *flags, "--validation", "kfold", cwd=tmp_path)
    assert done.returncode == 2
    assert "--val-samples has no effect with kfold" in done.stderr
    plan = json.loads(typed("plan", *flags, "--json", cwd=tmp_path).stdout)
    assert plan["data"]["val"] == 3


def test_a_teacher_is_found_by_its_name(data: Path, few_images: Path, tmp_path: Path) -> None:
    flags = ["--backbone", "lenet", "--epochs", "1", "--workers", "0", "--device", "cpu", "--set", "report=false"]
    done = typed("train", "--data", str(data), *flags, "--budget", "none", "--name", "big", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = typed("train", "--data", str(data), *flags, "--teacher", "big", "--name", "small", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kfold = ["--data", str(few_images), *flags, "--folds", "2", "--strategy", "full"]
    done = typed("train", *kfold, "--teacher", "big", "--name", "folded", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_dry_run_of_several_processes_compares_nothing(data: Path, tmp_path: Path) -> None:
    flags = ["--data", str(data), "--backbone", "lenet", "--num-processes", "2", "--budget", "auto", "--dry-run"]
    done = typed("train", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "none are compared: recipes are compared in one process only" in done.stdout
