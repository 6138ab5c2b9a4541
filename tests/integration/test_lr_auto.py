"""`--lr auto`: a few short trainings on the planned run choose the base learning rate, which the run then has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import MakeFolder, RunFtkit
from tests.runs import config, result

FLAGS = (
    *("--data", "data", "--backbone", "cifar_resnet20", "--weights", "none", "--strategy", "full", "--epochs", "3"),
    *("--batch-size", "8", "--workers", "0", "--augment", "none"),
)


@pytest.fixture
def project(tmp_path: Path, image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> Path:
    image_folder(tmp_path / "data", {"train": {"a": 8, "b": 8}, "val": {"a": 4, "b": 4}}, (16, 16))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_run_has_the_rate_that_validates_best(project: Path, run_ftkit: RunFtkit) -> None:
    done = run_ftkit("train", *FLAGS, "--lr", "auto", "--name", "auto")
    assert done.returncode == 0, done.stderr
    rate = config("auto")["optimizer"]["lr"]
    (note,) = [n for n in json.loads(Path("runs/auto/plan.json").read_text())["notes"] if "learning rate auto" in n]
    assert note.startswith(f"learning rate auto: {rate:g}, by validation accuracy after 2 epochs: ")
    scores = {float(at): float(value) for value, at in (s.split(" at ") for s in note.split(": ")[2].split(", "))}
    assert set(scores) == {3e-4, 1e-3, 3e-3, 1e-2}
    assert scores[rate] == max(scores.values())
    assert f"note  {note}" in done.stderr
    assert [path.name for path in Path("runs").iterdir()] == ["auto"]
    assert run_ftkit("train", *FLAGS, "--lr", f"{rate:g}", "--name", "given", "-q").returncode == 0
    assert result("given") == result("auto")


def test_rates_for_optimizers_with_other_steps_are_others(project: Path, run_ftkit: RunFtkit) -> None:
    planned = json.loads(run_ftkit("plan", *FLAGS, "--optimizer", "sgd", "--lr", "auto", "--json").stdout)
    assert planned["optimizer"]["lr"] in (3e-3, 1e-2, 3e-2, 1e-1)
    assert not Path("runs").exists()


def test_of_a_cross_fitted_run_the_first_fold_is_trained(project: Path, run_ftkit: RunFtkit) -> None:
    (project / "data" / "val").rename(project / "elsewhere")
    folds = ("--validation", "kfold", "--folds", "2")
    found = run_ftkit("train", *FLAGS, *folds, "--lr", "auto", "--name", "auto")
    assert found.returncode == 0, found.stderr
    rates = {config(f"auto/folds/{fold}")["optimizer"]["lr"] for fold in (1, 2)}
    assert rates == {config("auto")["optimizer"]["lr"]}
    curve = run_ftkit("lr-find", *FLAGS, *folds)
    assert (curve.returncode, "--validation kfold" in curve.stdout) == (0, True), curve.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("plan", "--strategy", "full", "--epochs", "0"), "--lr: strategy 'full' trains no epochs"),
        (("plan", "--strategy", "freeze", "--set", "group_lr.head=0.1"), "every group that trains has its rate from"),
        (("compare", "--strategies", "full,freeze"), "--lr: auto may give each run another value"),
        (("lr-find",), "--lr has no effect: lr-find tries rates"),
    ],
)
def test_where_it_has_no_use_it_is_refused(
    project: Path, run_ftkit: RunFtkit, words: tuple[str, ...], message: str
) -> None:
    done = run_ftkit(*words, "--data", "data", "--weights", "none", "--lr", "auto")
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("value", ["0", "-1", "fast", "nan"])
def test_other_rates_are_refused(project: Path, run_ftkit: RunFtkit, value: str) -> None:
    done = run_ftkit("plan", "--data", "data", "--lr", value)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --lr")
