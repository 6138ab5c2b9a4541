"""`ftkit sweep`: trials of one study, by one process or several, pruned, stopped and resumed; and its refusals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ftkit.cli.main import main
from tests import runs
from tests.conftest import MakeFolder

optuna = pytest.importorskip("optuna", reason="needs pip install 'ftkit[sweep]'")

RATES = "optimizer.lr=1e-3..1e-1:log"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    data = tmp_path_factory.mktemp("sweep") / "images"
    return image_folder(data, {"train": {"ants": 8, "bees": 8}, "val": {"ants": 6, "bees": 6}})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(images: Path, *more: str, epochs: int = 1, study: str = "s.journal") -> list[str]:
    small = ["--backbone", "lenet", "--weights", "none", "--strategy", "full", "--epochs", str(epochs)]
    machine = ["--device", "cpu", "--workers", "0", "--batch-size", "4", "--data", str(images)]
    return ["sweep", "--study", study, *small, *machine, *more]


def swept(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int = 0) -> tuple[dict[str, Any], str]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == code, capsys.readouterr().err
    out, err = capsys.readouterr()
    return (json.loads(out) if out else {}), err


def started(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ftkit", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def study_of(file: str = "s.journal") -> Any:
    backend = optuna.storages.journal.JournalFileBackend(file)
    return optuna.load_study(storage=optuna.storages.JournalStorage(backend), study_name="ftkit")


def test_trials_are_runs_and_the_best_ones_config_trains_to_the_same_metrics(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = ["--search", RATES, "--search", "augment=none|light", "--search", "batch_size=3..8"]
    arguments = [part for part in command(images, "--trials", "3", *space) if part not in ("--batch-size", "4")]
    found, err = swept(capsys, arguments)
    assert "search optimizer.lr: numbers from 0.001 to 0.1, uniform in the logarithm" in err
    assert [trial["number"] for trial in found["trials"]] == [0, 1, 2]
    for trial in found["trials"]:
        config = runs.config(Path(trial["run"]))
        assert 1e-3 <= config["optimizer"]["lr"] == float(trial["values"]["optimizer.lr"]) <= 1e-1
        assert config["augment"]["name"] == trial["values"]["augment.name"]
        assert 3 <= config["batch_size"] == int(trial["values"]["batch_size"]) <= 8
        records = runs.records(Path(trial["run"]))
        assert trial["value"] == max(record["val_accuracy"] for record in records)
        assert trial["state"] == "finished"
        assert trial["epochs"] == 1
    assert len({trial["values"]["optimizer.lr"] for trial in found["trials"]}) == 3
    assert found["best"]["value"] == max(trial["value"] for trial in found["trials"])
    assert found["config"] == "runs/s/best.yaml"
    assert found["command"] == "ftkit train --config runs/s/best.yaml"
    assert main([*found["command"].split()[1:], "--name", "again"]) == 0
    assert runs.records("again") == runs.records(Path(found["best"]["run"]))
    before = {path: path.stat().st_mtime_ns for path in Path("runs/s").glob("trial-*/metrics.jsonl")}
    again, err = swept(capsys, arguments)
    assert again == found
    assert "trial 0 of 3" not in err
    assert {path: path.stat().st_mtime_ns for path in Path("runs/s").glob("trial-*/metrics.jsonl")} == before
    shown, _ = swept(capsys, ["sweep", "--study", "s.journal", "--show", "--to", "shown.yaml"])
    assert shown["trials"] == found["trials"]
    assert Path("shown.yaml").read_bytes() == Path("runs/s/best.yaml").read_bytes()


def test_a_line_that_a_full_disk_has_cut_off_is_dropped(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command(images, "--search", RATES, "--trials", "2")
    first, _ = swept(capsys, [*arguments[:-1], "1"])
    journal = Path("s.journal")
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines()[-1][:20])
    found, _ = swept(capsys, arguments)
    assert found["trials"][0] == first["trials"][0]
    assert [trial["state"] for trial in found["trials"]] == ["finished", "finished"]
    journal.rename("renamed.journal")
    shown, _ = swept(capsys, ["sweep", "--study", "renamed.journal", "--show"])
    assert shown["trials"] == found["trials"]


def test_a_seed_determines_the_values(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = []
    for study, seed in (("a.journal", "0"), ("b.journal", "0"), ("c.journal", "1")):
        arguments = command(images, "--trials", "1", "--search", RATES, "--seed", seed, study=study)
        values.append(swept(capsys, arguments)[0]["trials"][0]["values"])
    assert values[0] == values[1] != values[2]


def test_a_trial_that_is_worse_than_most_is_pruned(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command(images, "--search", RATES, epochs=3)
    swept(capsys, [*arguments, "--trials", "1"])
    study = study_of()
    first = study.get_trials()[0]
    for _ in range(5):
        study.add_trial(
            optuna.trial.create_trial(
                value=2.0,
                params=first.params,
                distributions=first.distributions,
                intermediate_values={1: 2.0, 2: 2.0, 3: 2.0},
            )
        )
    found, err = swept(capsys, [*arguments, "--trials", "7"])
    assert found["trials"][6]["state"] == "pruned"
    assert found["trials"][6]["epochs"] == 1
    assert "its best epoch is worse than the median of earlier trials" in err
    run = Path(found["trials"][6]["run"])
    assert "pruned: after epoch 1 of 3" in (run / "train.log").read_text(encoding="utf-8")
    assert runs.summary(run)["state"] == "pruned"
    found, _ = swept(capsys, [*arguments, "--trials", "8", "--no-prune"])
    assert found["trials"][7]["state"] == "finished"
    assert found["trials"][6]["state"] == "pruned"


@pytest.mark.parametrize("signum", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_stopped_trial_is_resumed_by_the_same_command(
    images: Path, capsys: pytest.CaptureFixture[str], signum: signal.Signals
) -> None:
    more = ["--search", RATES, "--trials", "1", "--set", "checkpoint.min_seconds=0"]
    arguments = command(images, *more, epochs=20)
    process = started(arguments)
    records = Path("runs/s/trial-0/metrics.jsonl")
    until = time.monotonic() + 120
    while not (records.is_file() and records.read_text(encoding="utf-8").count("\n") >= 3):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if signum == signal.SIGINT else -signal.SIGKILL)
    if signum == signal.SIGINT:
        assert "run the same command again to resume" in err
    shown, _ = swept(capsys, ["sweep", "--study", "s.journal", "--show"])
    assert [trial["state"] for trial in shown["trials"]] == ["running"]
    found, err = swept(capsys, arguments)
    assert "trial 0 of 1, resumed" in err
    assert "resumed after epoch" in err
    assert [trial["state"] for trial in found["trials"]] == ["finished"]
    whole, _ = swept(capsys, command(images, *more, "--output", "whole", epochs=20, study="w/s.journal"))
    run, other = (Path(one["trials"][0]["run"]) for one in (found, whole))
    assert runs.records(run) == runs.records(other)
    assert runs.weights(run) == runs.weights(other)


def test_a_trial_of_another_machine_is_resumed_only_if_asked(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command(images, "--search", RATES, "--trials", "2")
    swept(capsys, [*arguments[:-1], "1"])
    attributes = {"machine": "elsewhere", "folder": str(Path("not-here").absolute())}
    study_of().add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs=attributes))
    found, _ = swept(capsys, arguments)
    assert [trial["state"] for trial in found["trials"]] == ["finished", "running"]
    assert main(["sweep", "--study", "s.journal", "--show"]) == 0
    assert "trial 1 is running on elsewhere" in capsys.readouterr().out
    found, err = swept(capsys, [*arguments, "--take-over"])
    assert "trial 1 of 2, resumed" in err
    assert [trial["state"] for trial in found["trials"]] == ["finished", "finished"], err
    assert Path(found["trials"][1]["run"]) == Path("runs/s/trial-1").absolute()


@pytest.mark.parametrize("study", ["s.journal", pytest.param("sqlite:///s.db", marks=pytest.mark.long)])
def test_two_processes_share_the_trials_of_a_study(
    images: Path, capsys: pytest.CaptureFixture[str], study: str
) -> None:
    arguments = command(images, "--search", RATES, "--trials", "5", study=study)
    processes = [started(arguments), started(arguments)]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    trained = [line.split()[1] for err in errors for line in err.splitlines() if " of 5: optimizer.lr" in line]
    assert sorted(trained) == ["0", "1", "2", "3", "4"]
    found, _ = swept(capsys, ["sweep", "--study", study, "--show"])
    assert [trial["number"] for trial in found["trials"]] == [0, 1, 2, 3, 4]
    assert {trial["state"] for trial in found["trials"]} == {"finished"}
    assert len({trial["values"]["optimizer.lr"] for trial in found["trials"]}) == 5
    assert sorted(path.name for path in Path("runs/s").iterdir()) == sorted(
        [*(f"trial-{n}" for n in range(5)), *(f".trial-{n}.lock" for n in range(5)), ".claims.lock", "best.yaml"]
    )


def test_a_failed_trial_has_its_reason_and_the_sweep_goes_on(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command(images, "--search", "optimizer.lr=0.01|0.02|1e30", "--trials", "5", "--seed", "2")
    found, _ = swept(capsys, arguments)
    failed = [trial for trial in found["trials"] if trial["state"] == "failed"]
    assert 0 < len(failed) < 5
    for trial in found["trials"]:
        assert (trial["state"] == "failed") == (trial["values"]["optimizer.lr"] == "1e30")
    assert "not finite" in failed[0]["reason"]


def test_three_failures_at_the_start_end_the_sweep(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command(images, "--search", "optimizer.lr=1e25..1e30:log", "--trials", "9")
    _, err = swept(capsys, arguments, code=1)
    assert "the last 3 trials have failed, the last one with: " in err
    found, _ = swept(capsys, ["sweep", "--study", "s.journal", "--show"])
    assert [trial["state"] for trial in found["trials"]] == ["failed"] * 3
    assert found["best"] is None


def test_no_trial_starts_after_the_budget(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, err = swept(capsys, command(images, "--search", RATES, "--budget", "0.001s"))
    assert len(found["trials"]) <= 1
    assert "the time of --budget is over" in err


def test_the_default_space_leaves_out_what_the_command_sets(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, err = swept(capsys, command(images, "--trials", "1", "--lr", "0.01"))
    assert "search augment.name: none, light, standard" in err
    assert set(found["trials"][0]["values"]) == {"augment.name", "label_smoothing"}


def test_whole_numbers_are_a_range_of_numbers_where_the_key_takes_them(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, err = swept(
        capsys, command(images, "--trials", "1", "--search", "clip_grad=1..2", "--search", "accumulate=1..2")
    )
    assert "search clip_grad: numbers from 1 to 2" in err
    assert "search accumulate: whole numbers from 1 to 2" in err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--search", "optimizer.lrr=1..2"], "--search optimizer.lrr: unknown key, did you mean 'lr'?"),
        (["--search", "augment=nine|light"], "--search augment.name: unknown level 'nine'"),
        (["--search", "label_smoothing=0..1"], "--search label_smoothing: must be less than 1"),
        (["--search", "optimizer.lr=0..1:log"], "a logarithmic range starts above 0"),
        (["--search", "optimizer.lr=1..1"], "the range is empty"),
        (["--search", "optimizer.lr=1"], "neither a range nor several values"),
        (["--search", "optimizer.lr"], "not KEY=SPACE"),
        (["--search", "seed=1..9"], "all trials have the same seed"),
        (["--search", RATES, "--search", RATES], "--search optimizer.lr is given twice"),
        (["--search", "epochs=1..2"], "--epochs has no effect: --search epochs chooses it"),
        (["--search", "optimizer.name=sgd|adamw", "--search", "optimizer.momentum=0..0.9"], "--search optimizer.mom"),
        (["--search", RATES, "--budget", "2 hours"], "--budget 2 hours is not a time"),
        (["--search", RATES, "--to", "mine.yaml"], "--to mine.yaml exists, and isn't of ftkit sweep"),
        (["--search", RATES, "--study", "mine.yaml"], "--study mine.yaml isn't a study"),
        (["--search", RATES, "--study", "sqlite:///no/such/s.db"], "--study sqlite:///no/such/s.db can't be opened"),
        (["--show"], "--data has no effect with --show"),
        (["--search", "label_smoothing=0..0.1", "--lr", "auto"], "--lr: a sweep doesn't take auto"),
        (["--search", RATES, "--batch-size", "auto"], "--batch-size: a sweep doesn't take auto"),
        (["--search", RATES, "--fold", "1", "--validation", "holdout"], "--fold"),
    ],
)
def test_refused_before_the_first_trial(
    images: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    Path("mine.yaml").write_text("epochs: 3\n", encoding="utf-8")
    trials = [] if more == ["--show"] else ["--trials", "2"]
    _, err = swept(capsys, command(images, *trials, *more), code=2)
    assert message in err
    assert "Traceback" not in err
    assert Path("mine.yaml").read_text(encoding="utf-8") == "epochs: 3\n"
    assert not Path("runs").exists()


def test_another_request_on_a_study_is_refused_with_the_difference(
    images: Path, image_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(images, "--search", RATES, "--trials", "1")
    swept(capsys, arguments)
    _, err = swept(capsys, command(images, "--search", RATES, "--trials", "1", epochs=2), code=2)
    assert "its epochs is 1, that of this command 2" in err
    wider = "optimizer.lr=1e-4..1e-1:log"
    _, err = swept(capsys, command(images, "--search", wider, "--trials", "1"), code=2)
    assert "its --search optimizer.lr is '1e-3..1e-1:log', that of this command '1e-4..1e-1:log'" in err
    _, err = swept(capsys, [*arguments, "--monitor", "loss"], code=2)
    assert "monitor" in err
    other = image_folder(Path("other"), {"train": {"ants": 4, "bees": 4}, "val": {"ants": 2, "bees": 2}})
    _, err = swept(capsys, command(other, "--search", RATES, "--trials", "1"), code=2)
    assert "its images, labels or classes differ from those given here" in err
    moved = Path("moved")
    moved.symlink_to(images)
    found, _ = swept(capsys, [*command(moved, "--search", RATES, "--trials", "1"), "--output", "elsewhere"])
    assert len(found["trials"]) == 1


def test_without_optuna_one_line_says_how_to_install_it(
    images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    _, err = swept(capsys, command(images, "--trials", "1"), code=2)
    assert "ftkit sweep needs Optuna, which isn't installed" in err
    assert "pip install 'ftkit[sweep]'" in err


def test_help_imports_neither_optuna_nor_torch() -> None:
    lines = ("import sys", "from ftkit.cli.main import main", "main(['sweep', '--help'])")
    code = "\n".join([*lines, "print({*sys.modules} & {'torch', 'optuna'})"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--take-over" in done.stdout
    assert done.stdout.endswith("set()\n")
