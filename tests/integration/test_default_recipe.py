"""The default with few images and no validation split: cross-fitting, and a race of recipes on the folds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

import ftkit
from ftkit import FtkitError, RequestError
from ftkit.errors import RunInterrupted
from tests.conftest import MakeFolder, typed
from tests.runs import Notes, records, weights
from tests.searches import search_of, without_seconds
from tests.stopping import StopAt, train_until_killed

SETTINGS: dict[str, Any] = {
    "backbone": "lenet",
    "batch_size": 8,
    "epochs": 2,
    "folds": 2,
    "precision": "fp32",
    "workers": 0,
    "report": False,
}
RECIPES = ["as-given", "two-rates", "two-rates-new-head", "one-rate"]


@pytest.fixture(scope="module")
def data(few_images: Path) -> Path:
    return few_images


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return ftkit.train(planned(data, tmp_path_factory.mktemp("runs"), name="whole")).run.path


def planned(data: Path, where: Path, **settings: Any) -> ftkit.Plan:
    folder = {"name": "folder", "root": str(data)}
    return ftkit.plan(**(SETTINGS | {"dataset": folder, "output": str(where)} | settings))


def test_the_run_started_before_its_recipes(run: Path, data: Path) -> None:
    shown = json.loads(typed("runs", "show", str(run), "--json").stdout)
    assert datetime.fromisoformat(shown["started"]).timestamp() < (run / "splits.csv").stat().st_mtime + 2
    assert (run / "config.yaml").stat().st_mtime < (run / "plan.json").stat().st_mtime


def test_the_recipes_are_compared_on_the_folds(run: Path) -> None:
    search, config = search_of(run), yaml.safe_load((run / "config.yaml").read_text())
    assert [trial["name"] for trial in search["trials"]] == RECIPES
    assert (search["budget"], search["folds"], search["monitor"]) == (None, 2, "accuracy")
    assert search["reason"] in ("all folds are used", "the others are clearly worse")
    for trial in search["trials"]:
        low, high = trial["scores"][0]["interval"]
        assert low <= trial["scores"][0]["value"] <= high
    winner = next(trial for trial in search["trials"] if trial["name"] == search["winner"])
    assert winner["verdict"] == ""
    assert (config["budget"], config["validation"]) == (None, "kfold")
    assert config["strategy"]["name"] == winner["changes"].get("strategy", {"name": "gradual"})["name"]
    assert config["probe"] == winner["changes"].get("probe", True)
    assert not (run / "trials").exists()
    assert (run / "model").is_dir()


def test_the_config_of_the_run_trains_its_winner_alone(run: Path, tmp_path: Path) -> None:
    again = ftkit.train(ftkit.plan(run / "config.yaml", output=str(tmp_path), name="again")).run.path
    assert not (again / "search.json").exists()
    assert weights(again, "model") == weights(run, "model")
    assert records(again) == records(run)


@pytest.mark.parametrize("step", [pytest.param(3, marks=pytest.mark.long), 14])
def test_stopped_and_resumed_equals_never_stopped(step: int, run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, tmp_path, name="cut"), StopAt(step))
    ftkit.resume(tmp_path / "cut")
    assert without_seconds(search_of(tmp_path / "cut")) == without_seconds(search_of(run))
    assert weights(tmp_path / "cut", "model") == weights(run, "model")


@pytest.mark.parametrize("when", [pytest.param("as-given, fold 1", marks=pytest.mark.long), "has won"])
def test_killed_and_resumed_equals_never_killed(when: str, run: Path, data: Path, tmp_path: Path) -> None:
    place = {"dataset": {"name": "folder", "root": str(data)}, "output": str(tmp_path), "name": "cut"}
    train_until_killed(when, SETTINGS | place)
    done = typed("train", "--resume", str(tmp_path / "cut"), "--json")
    assert done.returncode == 0, done.stderr
    assert without_seconds(search_of(tmp_path / "cut")) == without_seconds(search_of(run))
    assert weights(tmp_path / "cut", "model") == weights(run, "model")


def test_a_race_does_not_resume_on_other_images(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(copy, tmp_path, name="cut"), StopAt(3))
    shutil.copy(copy / "train/a/0000.jpg", copy / "train/a/9999.jpg")
    with pytest.raises(RequestError, match=r"can't resume: its train images have changed"):
        ftkit.resume(tmp_path / "cut")


class Change(ftkit.Listener):
    """Calls a function when a recipe begins its training on a fold."""

    def __init__(self, when: str, change: Callable[[], object]) -> None:
        self.when, self.change = when, change

    def note(self, text: str) -> None:
        if self.when in text:
            self.change()


def test_images_that_go_during_a_race_end_it_in_one_line(data: Path, run: Path, tmp_path: Path) -> None:
    copy, away = tmp_path / "data", tmp_path / "away.jpg"
    shutil.copytree(data, copy)
    image = copy / "train/a/0000.jpg"
    with pytest.raises(FtkitError, match=r"1 training image came or went while the run was training: .*0000\.jpg"):
        ftkit.train(planned(copy, tmp_path, name="cut"), Change("two-rates, fold 1", lambda: image.rename(away)))
    away.rename(image)
    ftkit.resume(tmp_path / "cut")
    assert weights(tmp_path / "cut", "model") == weights(run, "model")


def test_what_is_not_the_fault_of_a_recipe_ends_the_race(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    image = copy / "train/b/0001.png"
    image.write_bytes(b"no image")
    flags = ["--data", str(copy), *FLAGS, "--scan", "off", "--set", "report=false"]
    done = typed("train", *flags, "--name", "cut", cwd=tmp_path)
    assert done.returncode == 1
    assert "0001.png" in done.stderr.splitlines()[-2]
    assert "repair or remove it" in done.stderr.splitlines()[-1]
    assert [trial["verdict"] for trial in search_of(tmp_path / "runs/cut")["trials"]] == [""] * 4


def test_resumed_by_a_relative_path_its_config_has_the_whole_one(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, tmp_path / "runs", name="cut"), StopAt(3))
    assert typed("train", "--resume", "runs/cut", cwd=tmp_path).returncode == 0
    assert yaml.safe_load((tmp_path / "runs/cut/config.yaml").read_text())["output"] == str(tmp_path / "runs")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--ema", "0.9"], "a callback brings weights of its own"),
        (["--set", "val_fraction=0.3"], "val_fraction is set"),
        (["--strategy", "scratch"], "the weights start at random"),
        (["--budget", "none"], "budget is none"),
        (["--folds", "9"], "a class has fewer images than 9 folds"),
        (["--scan", "off", "--on-bad-image", "skip"], "not all are read before training"),
    ],
)
def test_folds_without_effect_say_why(flags: list[str], reason: str, data: Path, tmp_path: Path) -> None:
    done = typed("plan", "--data", str(data), *FLAGS, *flags, cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    line, hint = done.stderr.strip().splitlines()
    assert line.startswith("error: --folds has no effect without kfold: images are held out, since ")
    assert line.endswith(reason)
    assert hint == "hint: drop it, or change that"


@pytest.mark.long
def test_folds_go_with_what_is_measured_before_the_run(data: Path, tmp_path: Path) -> None:
    done = typed("plan", "--data", str(data), *FLAGS, "--lr", "auto", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_extend_is_refused_with_the_reason(run: Path, data: Path, tmp_path: Path) -> None:
    done = typed("train", "--resume", str(run), "--extend", "1")
    assert done.returncode == 2
    assert "is cross-fitted" in done.stderr
    only = tmp_path / "only"
    shutil.copytree(data / "train", only / "train")
    assert typed("train", "--data", str(only), *FLAGS, "--name", "base", cwd=tmp_path).returncode == 0
    done = typed("extend", "base", "--data", str(data), "--to", "more", cwd=tmp_path)
    assert done.returncode == 2
    assert "has no test split, and the run is cross-fitted" in done.stderr


def test_the_json_of_a_plan_has_the_recipes(data: Path, tmp_path: Path) -> None:
    plan = json.loads(typed("plan", "--data", str(data), *FLAGS, "--json", cwd=tmp_path).stdout)
    assert list(plan["recipes"]) == RECIPES
    plan = json.loads(typed("plan", "--data", str(data), *FLAGS, "--strategy", "full", "--json", cwd=tmp_path).stdout)
    assert plan["recipes"] is None


def test_the_json_of_a_run_has_the_recipes_and_the_winner(data: Path, tmp_path: Path) -> None:
    done = typed("train", "--data", str(data), *FLAGS, "--name", "run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found, search = json.loads(done.stdout)["recipes"], search_of(tmp_path / "runs" / "run")
    assert list(found["tried"]) == RECIPES
    assert found["winner"] == search["winner"]
    assert found["tried"][found["winner"]]["verdict"] is None
    for trial in search["trials"]:
        assert found["tried"][trial["name"]]["values"] == [score["value"] for score in trial["scores"]]
    more = ("--strategy", "full", "--name", "alone", "--json")
    alone = typed("train", "--data", str(data), *FLAGS, *more, cwd=tmp_path)
    assert json.loads(alone.stdout)["recipes"] is None


def test_what_the_config_sets_is_trained_as_it_is(data: Path, tmp_path: Path) -> None:
    plan = planned(data, tmp_path, strategy="freeze")
    assert (plan.config.validation, len(plan.fold_sizes)) == ("kfold", 2)
    folder = ftkit.train(plan).run.path
    assert not (folder / "search.json").exists()
    assert (folder / "cross-fitting.json").is_file()


@pytest.mark.parametrize(
    "settings",
    [
        {"budget": None},
        {"validation": "holdout"},
        {"val_fraction": 0.3},
        {"train_samples": 15},
        {"weights": "none"},
        {"strategy": "scratch"},
        {"callbacks": ["ema"]},
        {"folds": 6},
    ],
    ids=str,
)
def test_images_are_held_out(settings: dict[str, Any], data: Path, tmp_path: Path) -> None:
    plan = planned(data, tmp_path, **settings)
    assert (plan.config.validation, plan.fold_sizes) == ("holdout", ())
    assert plan.splits.val is not None


def test_images_are_held_out_of_many(image_folder: MakeFolder, tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data", {"train": {"a": 501, "b": 500}}, size=(28, 28))
    assert planned(data, tmp_path, scan="off").config.validation == "holdout"
    (data / "train/a/0500.png").unlink(missing_ok=True)
    (data / "train/a/0500.jpg").unlink(missing_ok=True)
    assert planned(data, tmp_path, scan="off").config.validation == "kfold"


FLAGS = ["--backbone", "lenet", "--folds", "2", "--epochs", "1", "--workers", "0", "--device", "cpu"]


def test_what_plan_and_train_print(data: Path, tmp_path: Path) -> None:
    plan = typed("plan", "--data", str(data), *FLAGS, cwd=tmp_path)
    assert plan.returncode == 0, plan.stderr
    assert "recipes  as-given, two-rates, two-rates-new-head, one-rate, compared on out-of-fold images" in plan.stdout
    done = typed("train", "--data", str(data), *FLAGS, "--name", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "recipes by validation accuracy, each on the first folds:"
    assert "search: " in done.stdout
    shown = typed("runs", "show", "mine", cwd=tmp_path)
    assert "4 recipes tried in " in shown.stdout


@pytest.mark.long
def test_several_processes_train_the_config_as_it_is(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = typed("train", "--data", str(data), *FLAGS, "--num-processes", "2", "--name", "both", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "recipes are compared in one process only" in capfd.readouterr().err
    assert (tmp_path / "runs" / "both" / "cross-fitting.json").is_file()
    assert not (tmp_path / "runs" / "both" / "search.json").exists()


@pytest.mark.long
def test_a_race_is_not_resumed_in_several_processes(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, tmp_path, name="cut"), StopAt(2))
    done = typed("train", "--resume", str(tmp_path / "cut"), "--num-processes", "2")
    assert done.returncode == 2, done.stderr
    assert "works in one process only" in capfd.readouterr().err


def test_commands_of_one_training_hold_images_out(data: Path, tmp_path: Path) -> None:
    flags = ["--data", str(data), "--backbone", "lenet", "--epochs", "1", "--workers", "0"]
    done = typed("compare", "--strategies", "freeze,full", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for folder in (tmp_path / "runs").iterdir():
        if (folder / "config.yaml").is_file():
            assert yaml.safe_load((folder / "config.yaml").read_text())["validation"] == "holdout"


@pytest.mark.long
def test_commands_that_train_for_a_while_hold_images_out(data: Path, tmp_path: Path) -> None:
    place = ["--data", str(data), "--workers", "0"]
    network = ["--backbone", "lenet"]
    for command in (["lr-find", *network, "--epochs", "1"], ["advise", *network], ["compare", "--backbones", "lenet"]):
        done = typed(*command, *place, cwd=tmp_path)
        assert done.returncode == 0, (command, done.stderr)


def test_notes_name_the_recipe_and_the_fold(data: Path, tmp_path: Path) -> None:
    notes = Notes()
    ftkit.train(planned(data, tmp_path), notes)
    assert "comparing recipes: as-given, fold 1 of 2" in notes.notes
    assert any(note.startswith("search: ") and " has won (" in note for note in notes.notes)
