"""`budget`: recipes are tried on the folds of the training images, and the best one becomes the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import ftkit
from ftkit import RequestError
from ftkit.errors import RunInterrupted
from tests.conftest import MakeFolder, typed
from tests.runs import Notes, planner, records, weights
from tests.searches import FEW, search_of, without_seconds
from tests.stopping import StopAt, train_until_killed

FIXED: dict[str, Any] = {
    "strategy": "full",
    "augment": "none",
    "epochs": 2,
    "label_smoothing": 0.1,
    "batch_transforms": [{"name": "mixup", "alpha": 0.2}],
}
"""Set, so that few recipes are left."""
SETTINGS: dict[str, Any] = {"backbone": "lenet", "weights": "default", "batch_size": 8, "folds": 2, "precision": "fp32"}
planned = planner(**SETTINGS, **FIXED, budget="1h")
FIRST = ("as-given", "two-rates", "two-rates-new-head", "one-rate")


@pytest.fixture(scope="module")
def data(few_images: Path) -> Path:
    return few_images


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return ftkit.train(planned(data, tmp_path_factory.mktemp("runs"), name="whole")).run.path


def test_recipes_that_keep_what_is_set_are_compared(run: Path) -> None:
    search = search_of(run)
    assert (search["folds"], search["monitor"], search["budget"]) == (2, "accuracy", 3600)
    assert set(search["fixed"]) == FIXED.keys()
    trials = {trial["name"]: trial for trial in search["trials"]}
    assert tuple(trials)[:4] == FIRST
    assert trials["as-given"]["changes"] == {}
    assert trials["two-rates"]["changes"] == {"optimizer.lr": pytest.approx(0.01)}
    assert trials["two-rates-new-head"]["changes"] == {"optimizer.lr": pytest.approx(0.01), "probe": False}
    assert trials["one-rate"]["changes"] == {"probe": False}
    assert all(trial["scores"] for trial in trials.values())
    assert search["reason"] == "no further recipe was left to try"
    (best,) = (trial["name"] for trial in trials.values() if not trial["verdict"])
    assert search["winner"] == best
    others = {trial["verdict"].split()[0] for trial in trials.values() if trial["verdict"]}
    assert others == {"behind"}


def test_the_best_of_the_first_recipes_has_the_best_score(run: Path) -> None:
    trials = {trial["name"]: trial for trial in search_of(run)["trials"]}

    def key(name: str) -> tuple[float, float]:
        score = trials[name]["scores"][0]
        return score["value"], -score["loss"]

    ahead = {trials[name]["verdict"].split()[1] for name in FIRST if trials[name]["verdict"].endswith("after fold 1")}
    assert ahead == {max(FIRST, key=key)}


@pytest.mark.long
def test_the_winner_is_the_run(run: Path, data: Path, tmp_path: Path) -> None:
    search, config = search_of(run), yaml.safe_load((run / "config.yaml").read_text())
    (winner,) = (trial for trial in search["trials"] if trial["name"] == search["winner"])
    assert config["budget"] is None
    assert config["validation"] == "kfold"
    assert config["optimizer"]["lr"] == pytest.approx(winner["changes"].get("optimizer.lr", 0.003))
    assert config["probe"] == winner["changes"].get("probe", True)
    assert not (run / "trials").exists()
    assert (run / "out-of-fold.csv").is_file()
    # The config trains the winner's run again.
    again = ftkit.train(ftkit.plan(run / "config.yaml", output=str(tmp_path), name="again")).run.path
    assert weights(again, "model") == weights(run, "model")
    assert records(again) == records(run)


@pytest.mark.long
def test_evaluate_predict_and_runs_read_it_as_any_run(run: Path, data: Path) -> None:
    done = typed("evaluate", str(run), "--split", "val", "--json")
    assert done.returncode == 0, done.stderr
    found_metrics = json.loads(done.stdout)
    assert found_metrics["split"] == "out-of-fold"
    assert found_metrics["accuracy"] == pytest.approx(records(run)[0]["val_accuracy"])
    assert typed("predict", str(data / "test"), "--model", str(run)).returncode == 0
    shown = typed("runs", "show", str(run))
    assert "finished" in shown.stdout
    assert f"{len(search_of(run)['trials'])} recipes tried in " in shown.stdout
    assert "search.json" in shown.stdout


@pytest.mark.long
@pytest.mark.parametrize("step", [3, 17])
def test_stopped_and_resumed_equals_never_stopped(step: int, run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunInterrupted) as caught:
        ftkit.train(planned(data, tmp_path, name="cut"), StopAt(step))
    assert caught.value.hint == f"ftkit train --resume {tmp_path / 'cut'}"
    ftkit.resume(tmp_path / "cut")
    assert without_seconds(search_of(tmp_path / "cut")) == without_seconds(search_of(run))
    assert weights(tmp_path / "cut", "model") == weights(run, "model")


@pytest.mark.long
@pytest.mark.parametrize("when", ["search: one-rate, fold 1", "has won"])
def test_killed_and_resumed_equals_never_killed(when: str, run: Path, data: Path, tmp_path: Path) -> None:
    folder = {"name": "folder", "root": str(data)}
    place = {"dataset": folder, "workers": 0, "output": str(tmp_path), "name": "cut", "report": False}
    train_until_killed(when, {**SETTINGS, **FIXED, **place, "budget": "1h"})
    done = typed("train", "--resume", str(tmp_path / "cut"), "--json")
    assert done.returncode == 0, done.stderr
    assert without_seconds(search_of(tmp_path / "cut")) == without_seconds(search_of(run))
    assert weights(tmp_path / "cut", "model") == weights(run, "model")


def test_a_budget_that_is_spent_at_once_gives_the_first_recipe(data: Path, tmp_path: Path) -> None:
    notes = Notes()
    outcome = ftkit.train(planned(data, tmp_path, budget=0.001, strategy="gradual"), notes)
    search = search_of(outcome.run.path)
    assert (search["winner"], search["reason"]) == ("as-given", "the budget was spent")
    assert {trial["verdict"] for trial in search["trials"][1:]} == {"not tried: the budget was spent"}
    assert any("as-given has won (the budget was spent)" in note for note in notes.notes)


@pytest.mark.long
def test_with_a_validation_split_recipes_are_compared_on_it(
    image_folder: MakeFolder, tmp_path: Path, run: Path
) -> None:
    data = image_folder(tmp_path / "split", {"train": FEW, "val": dict.fromkeys(FEW, 2)})
    settings = {key: value for key, value in FIXED.items() if key != "epochs"} | {"epochs": 1, "probe": True}
    plan = ftkit.plan(
        dataset={"name": "folder", "root": str(data)},
        backbone="lenet",
        workers=0,
        output=str(tmp_path / "runs"),
        budget="1h",
        **settings,
    )
    outcome = ftkit.train(plan)
    search = search_of(outcome.run.path)
    assert search["folds"] == 1
    assert all(len(trial["scores"]) == 1 for trial in search["trials"])
    assert outcome.best["val_accuracy"] == max(trial["scores"][0]["value"] for trial in search["trials"])
    assert (outcome.run.path / "last").is_dir()
    extended = typed("train", "--resume", str(outcome.run.path), "--extend", "1", "--json")
    assert extended.returncode == 0, extended.stderr
    assert len(json.loads(extended.stdout)["epochs"]) == 3


def test_what_train_and_plan_print(data: Path, tmp_path: Path) -> None:
    flags = ["--data", str(data), "--backbone", "lenet", "--folds", "2", "--epochs", "1", "--workers", "0"]
    plan = typed("plan", *flags, "--validation", "kfold", "--budget", "90s", cwd=tmp_path)
    assert plan.returncode == 0, plan.stderr
    assert (
        "search  2 min: as-given, two-rates, two-rates-new-head, one-rate, then changes of the best, compared on "
        "out-of-fold images; set and not changed: epochs" in plan.stdout
    )
    done = typed(
        "train", *flags, "--validation", "kfold", "--budget", "0.01s", "--name", "mine", "--device", "cpu", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "recipes by validation accuracy, each on the first folds:"
    assert lines[1].startswith("  as-given ")
    assert lines[1].endswith("best")
    assert "optimizer.lr 0.01, probe false" in done.stdout
    assert (
        "0.01 s spent, the budget was spent" in done.stdout.replace(" of ", " ", 1) or "of 0.01 s spent" in done.stdout
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--budget", "soon"], "--budget: must be a time such as 90s, 10m or 1h30m"),
        (["plan", "--budget", "0s"], "--budget"),
        (["plan", "--budget", "1m", "--validation", "kfold", "--fold", "1"], "a search trains all folds"),
        (["plan", "--budget", "1m", "--epochs", "0"], "a search compares trainings"),
        (["compare", "--strategies", "freeze,full", "--set", "budget=1m"], "strategies are compared"),
    ],
)
def test_refused_in_one_line(arguments: list[str], message: str, data: Path, tmp_path: Path) -> None:
    done = typed(*arguments, "--data", str(data), "--backbone", "lenet", cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


def test_the_library_refuses_a_budget_that_is_no_time(data: Path) -> None:
    with pytest.raises(RequestError, match="budget"):
        planned(data, budget="soon")


@pytest.mark.long
def test_interrupted_while_the_winner_becomes_the_run(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each attempt fails after one file of the winner has moved, and is resumed.
    attempts, ended, move, cut = 0, False, Path.replace, tmp_path / "cut"

    def moved(file: Path, target: Path) -> Path:
        if file.parent.parent.name == "trials" and target.parent == cut:
            if limit[0] == 0:
                raise OSError(28, "No space left on device")
            limit[0] -= 1
        return move(file, target)

    monkeypatch.setattr(Path, "replace", moved)
    while not ended and attempts < 50:
        limit = [1]
        try:
            ftkit.resume(tmp_path / "cut") if attempts else ftkit.train(planned(data, tmp_path, name="cut"))
            ended = True
        except ftkit.FtkitError:
            attempts += 1
    assert 4 < attempts < 50
    assert weights(tmp_path / "cut", "model") == weights(run, "model")
    assert records(tmp_path / "cut") == records(run)
    assert not (tmp_path / "cut" / "trials").exists()
