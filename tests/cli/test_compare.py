"""`ftkit compare`: runs on the same images, and strategies over seeds: trained, reused and resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit.cli.main import main
from tests import inside
from tests.conftest import MakeFolder

COMMON: dict[str, Any] = {"backbone": "cifar_resnet20", "weights": "none", "workers": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    """Images in three splits, two runs on them, and one run on images with another class."""
    work = tmp_path_factory.mktemp("compare")
    each = {"ants": 8, "bees": 8}
    image_folder(work / "data", {"train": each, "val": {"ants": 4, "bees": 4}, "test": {"ants": 6, "bees": 5}})
    image_folder(work / "other", {"train": {"ants": 4, "wasps": 4}, "val": {"ants": 2, "wasps": 2}})
    for name, root, strategy in (("one", "data", "full"), ("two", "data", "freeze"), ("else", "other", "full")):
        dataset = {"name": "folder", "root": str(work / root)}
        options: dict[str, Any] = {"strategy": strategy, "name": name, "output": str(work / "runs"), "epochs": 2}
        ftkit.train(ftkit.plan(**COMMON, **options, dataset=dataset, preprocessing={"size": 32}))
    return work


@pytest.fixture(autouse=True)
def folder(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)


def compared(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], str]:
    capsys.readouterr()
    assert main(["compare", *arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["compare", *arguments]) == 2
    return capsys.readouterr().err


# Runs


def test_metrics_equal_those_of_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = compared(capsys, "one", "runs/two", "--metric", "accuracy", "--metric", "auroc")
    assert found["split"] == "test"
    for run in found["runs"]:
        assert main(["evaluate", run["run"], "--json"]) == 0
        alone = json.loads(capsys.readouterr().out)
        assert run["images"] == alone["images"] == 11
        for metric in ("accuracy", "auroc"):
            assert run["metrics"][metric]["value"] == alone[metric]
            assert run["metrics"][metric]["low"] <= alone[metric] <= run["metrics"][metric]["high"]
    first, second = found["runs"]
    assert first["against_baseline"] is None
    assert set(second["against_baseline"]) == {
        "differences", "only_baseline_correct", "only_this_correct", "p", "significant",
        "smallest_significant_difference",
    }  # fmt: skip
    gap = second["against_baseline"]["only_this_correct"] - second["against_baseline"]["only_baseline_correct"]
    assert second["against_baseline"]["differences"]["accuracy"]["value"] == pytest.approx(gap / 11)


def test_epochs_time_and_size_come_from_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = compared(capsys, "one", "two", "--split", "val")
    assert found["split"] == "val"
    full, frozen = found["runs"]
    assert (full["images"], full["epochs"]) == (8, 2)
    assert full["best_epoch"] in (1, 2)
    assert (full["trainable"], frozen["trainable"]) == (269_722 - 520, 130)
    assert full["seconds"] > 0
    records = [json.loads(line) for line in Path("runs/one/metrics.jsonl").read_text().splitlines()]
    assert full["seconds"] == pytest.approx(sum(r["seconds"] for r in records), abs=1e-3)


def test_the_table_has_every_run_and_the_test(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "one", "two", "--metric", "accuracy"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("test: 11 images; in brackets")
    cells = [line.split() for line in out.splitlines()]
    (one,) = (row for row in cells if row[:1] == ["one"])
    assert one[1].startswith(("0.", "1."))
    assert one[4:7] == [one[4], "of", "2"]
    assert len([row for row in cells if row[:1] == ["two"]]) >= 2, "by itself, and against the first"
    assert "McNemar" in out


def test_runs_with_other_classes_are_compared_unpaired_only(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "one", "else")
    assert "can't be paired: their classes differ: bees is only in the first" in message
    assert "ftkit compare --unpaired shows them" in message
    found, _ = compared(capsys, "one", "else", "--unpaired")
    assert found["split"] == "val", "the other data has no test split"
    assert [run["images"] for run in found["runs"]] == [8, 4]
    assert [run["against_baseline"] for run in found["runs"]] == [None, None]


def test_changed_data_gives_a_warning(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = work / "data/train/ants/extra.png"
    shutil.copy(work / "data/train/ants/0001.png", extra)
    try:
        _, err = compared(capsys, "one", "two")
    finally:
        extra.unlink()
    assert err.count("warning: dataset folder has changed since runs/") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one"], "nothing to compare one with: give two or more runs"),
        ([], "nothing to compare: give two or more runs, or --strategies"),
        (["one", "tow"], "unknown run 'tow'"),
        (["one", "two", "--epochs", "3"], "--epochs has no effect on existing runs"),
        (["one", "two", "--set", "seed=3"], "--set seed has no effect on existing runs"),
        (["one", "two", "--seeds", "3"], "--seeds has no effect on existing runs"),
        (["one", "two", "--metric", "acuracy"], "--metric: unknown metric 'acuracy'"),
        (["one", "two", "--metric", "top5"], "--metric: top5 is undefined for the test images: it needs 6 classes"),
        (["one", "bare"], "bare is a model on its own, without its run"),
        (["one", "--strategies", "full"], "--strategies and one: give either runs or strategies"),
        (["--strategies", "full", "--unpaired"], "--unpaired has no effect"),
        (["--strategies", "full", "--strategy", "freeze"], "--strategy has no effect with --strategies"),
        (["--strategies", "full", "--name", "mine"], "--name has no effect with --strategies"),
        (["--strategies", "full,full"], "--strategies: full is given twice"),
        (["--strategies", "full,"], "--strategies: a name is empty"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(
    arguments: list[str], message: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (work / "bare").exists():
        shutil.copytree(work / "runs/one/model", work / "bare")
    err = refused(capsys, *arguments)
    assert message in err
    assert "Traceback" not in err


def test_a_run_without_a_model_names_the_command_that_resumes_it(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = work / "runs/stopped"
    shutil.copytree(work / "runs/one", stopped)
    shutil.rmtree(stopped / "model")
    try:
        assert "hint: ftkit train --resume runs/stopped" in refused(capsys, "one", "stopped")
    finally:
        shutil.rmtree(stopped)


# Strategies

TRAIN = "--data data --backbone cifar_resnet20 --weights none --image-size 32 --workers 0 --device cpu"


def flags(output: Path, *more: str) -> list[str]:
    """Flags of a short training."""
    return [*TRAIN.split(), "--epochs", "1", "--output", str(output), *more]


def test_strategies_are_trained_once_and_reported_with_their_spread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["--strategies", "freeze,full", "--seeds", "2", *flags(tmp_path, "--seed", "5")]
    found, err = compared(capsys, *wanted)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["freeze-seed5", "freeze-seed6", "full-seed5", "full-seed6"]
    assert "run 1 of 4: freeze, seed 5\n" in err
    assert [(r["strategy"], r["seed"]) for r in found["runs"]] == [
        ("freeze", 5), ("freeze", 6), ("full", 5), ("full", 6),
    ]  # fmt: skip
    for series in found["strategies"]:
        mine = [r["test"]["accuracy"] for r in found["runs"] if r["strategy"] == series["strategy"]]
        assert series["seeds"] == [5, 6]
        assert series["test"]["accuracy"]["mean"] == pytest.approx(sum(mine) / 2)
        assert series["test"]["accuracy"]["sd"] == pytest.approx(abs(mine[0] - mine[1]) / 2**0.5)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/model/model.json")}
    again, err = compared(capsys, *wanted)
    assert again == found
    assert err.count("already trained") == 4
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/model/model.json")} == before


def test_stopped_runs_resume_to_the_same_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ["--strategies", "full", "--seeds", "2", "--epochs", "2", *TRAIN.split()]
    whole, _ = compared(capsys, *wanted, "--output", str(tmp_path / "whole"))
    wanted += ["--output", str(tmp_path / "stopped")]
    with monkeypatch.context() as patch:
        inside.interrupt_epoch(patch, 4)
        assert main(["compare", *wanted]) == 130
    err = capsys.readouterr().err
    assert "run 2 of 2: stopped after epoch 1" in err
    assert "run the same command again to resume" in err
    resumed, err = compared(capsys, *wanted)
    assert "run 2 of 2: full, seed 1, resumed" in err
    assert [run["test"] for run in resumed["runs"]] == [run["test"] for run in whole["runs"]]
    models = [(tmp_path / name / "full-seed1/last/model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert models[0] == models[1]


def test_all_runs_are_planned_before_the_first_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "--strategies", "full,freez", *flags(tmp_path / "runs"))
    assert "--strategies: unknown strategy 'freez'" in message
    message = refused(capsys, "--strategies", "full,freeze-unfreeze", *flags(tmp_path / "runs"))
    assert "strategy.unfreeze_epoch is 5" in message
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_another_run_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compared(capsys, "--strategies", "full", "--seeds", "1", *flags(tmp_path))
    message = refused(capsys, "--strategies", "full", "--seeds", "1", *flags(tmp_path, "--lr", "0.5"))
    assert "full-seed0 is another run: its optimizer.lr is 0.003, the requested one is 0.5" in message
    (tmp_path / "freeze-seed0").mkdir()
    assert "exists and isn't a run" in refused(capsys, "--strategies", "freeze", *flags(tmp_path))


@pytest.mark.long
def test_strategies_without_weights_or_epochs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--train-samples", "60", "--workers", "0", "--device", "cpu", "--output", str(tmp_path)]
    found, err = compared(
        capsys, "--strategies", "probe,scratch,auto", "--seeds", "1", *common, "--epochs", "1", "--weights", "default"
    )
    assert "scratch starts from random weights" in err
    assert [(r["strategy"], r["epochs"]) for r in found["runs"]] == [("probe", 0), ("scratch", 1), ("auto", 1)]
    probe, scratch, auto = (series["val"]["accuracy"] for series in found["strategies"])
    assert probe["sd"] is None
    assert probe["mean"] > 0.8 > scratch["mean"]
    assert auto["mean"] >= probe["mean"]


def test_the_table_has_a_row_per_strategy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["--strategies", "freeze,full", "--seeds", "2", "--metric", "accuracy", "--split", "test"]
    assert main(["compare", *wanted, *flags(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 seeds per strategy, mean ± standard deviation"
    rows = {line.split()[0]: line.split() for line in lines if line.split()[:1] in (["freeze"], ["full"])}
    assert rows["freeze"][2] == "±"
    assert rows["full"][-1] == "269,202"
