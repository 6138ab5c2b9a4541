"""Which run `--resume` takes up and by which settings, `--extend`, and stops that come at a bad time."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit import EpochDone, Listener, StepDone, resume
from ftkit.cli.main import main
from ftkit.errors import RunInterrupted
from tests import inside
from tests.conftest import MakeFolder
from tests.runs import Notes, planner, records
from tests.stopping import StopAt

SETTINGS: dict[str, Any] = {
    "backbone": "lenet",
    "weights": "none",
    "strategy": "gradual",
    "batch_size": 4,
    "epochs": 2,
    "workers": 0,
    "optimizer": {"name": "adamw", "lr": 0.01},
}
planned = planner(**SETTINGS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    return image_folder(tmp_path_factory.mktemp("data"), {"train": {"a": 8, "b": 8}, "val": {"a": 3, "b": 3}})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `ftkit.yaml` but the test's own."""
    monkeypatch.chdir(tmp_path)


def stopped(data: Path, name: str = "run", step: int = 6, **settings: Any) -> Path:
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, name, **settings), StopAt(step))
    return Path("runs", name)


@pytest.fixture(scope="module")
def half_done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in its second epoch; tests copy it."""
    output = tmp_path_factory.mktemp("half")
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, output=str(output)), StopAt(6))
    return output / "run"


@pytest.fixture
def half(half_done: Path) -> Path:
    """The same under the name by which the README's commands know it."""
    return shutil.copytree(half_done, Path("runs", "run"))


def files(run: Path) -> Iterator[tuple[str, bytes]]:
    """What a run can be told by: its weights and its last state."""
    for name in ("model/model.safetensors", "last/model.safetensors", "checkpoints/LATEST"):
        yield name, (run / name).read_bytes()


def test_without_a_name_the_newest_unfinished_run_is_resumed(data: Path, half: Path) -> None:
    older = shutil.copytree(half, Path("runs", "older"))
    for age, run in ((100, older), (50, half)):
        os.utime(run, (time.time() - age,) * 2)
    ftkit.train(planned(data, "finished", epochs=1))
    assert main(["train", "--resume", "--quiet"]) == 0
    assert (half / "last").is_dir()
    assert not (older / "last").exists()


def test_a_run_is_found_by_its_name(half: Path) -> None:
    assert main(["train", "--resume", half.name, "--quiet"]) == 0
    assert (half / "last").is_dir()


def test_without_an_unfinished_run_that_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume"]) == 2
    assert "no unfinished run in" in capsys.readouterr().err


CHANGES = {
    "--lr": ["--lr", "0.5"],
    "--epochs": ["--epochs", "9"],
    "--strategy": ["--strategy", "full"],
    "--set seed": ["--set", "seed=3"],
    "--config other.yaml": ["--config", "other.yaml"],
    "--on-nan": ["--on-nan", "skip"],
}


@pytest.mark.parametrize("flag", CHANGES)
def test_settings_that_would_change_the_result_are_refused(
    flag: str, half: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("other.yaml").write_text("epochs: 9\n")
    before = sorted(path.name for path in (half / "checkpoints").iterdir())
    assert main(["train", "--resume", str(half), *CHANGES[flag]]) == 2
    printed = capsys.readouterr().err
    assert f"error: {flag}" in printed
    assert "keeps its own" in printed
    assert sorted(path.name for path in (half / "checkpoints").iterdir()) == before


def test_a_variable_that_would_change_the_result_is_refused(
    half: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FTKIT_SEED", "3")
    assert main(["train", "--resume", str(half)]) == 2
    assert "error: FTKIT_SEED: a run that is resumed keeps its own seed" in capsys.readouterr().err


def test_settings_that_cannot_change_the_result_are_taken(data: Path, half: Path, tmp_path: Path) -> None:
    ftkit.train(planned(data, "whole"))
    asked = ["--workers", "1", "--set", "checkpoint.every_steps=1", "--set", "checkpoint.keep=9"]
    assert main(["train", "--resume", str(half), "--quiet", *asked]) == 0
    assert dict(files(half)) == dict(files(Path("runs", "whole")))
    assert len(list((half / "checkpoints").glob("e0001-s*"))) >= 2


def test_the_folders_own_settings_may_be_broken_or_changed_meanwhile(half: Path) -> None:
    Path("ftkit.yaml").write_text("epochs: [")
    assert main(["train", "--resume", str(half), "--quiet"]) == 0
    assert (half / "last").is_dir()


@pytest.mark.parametrize("flag", [["--extend", "2"], ["--allow-world-size-change"]])
def test_flags_for_a_resume_are_refused_without_one(flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *flag]) == 2
    assert "has no effect without --resume" in capsys.readouterr().err


def test_an_extended_run_resumes_from_its_last_weights(data: Path) -> None:
    run = Path("runs", "run")
    ftkit.train(planned(data))
    before = records(run)
    assert main(["train", "--resume", "run", "--extend", "2", "--quiet"]) == 0
    after = records(run)
    assert after[: len(before)] == before
    assert [record["epoch"] for record in after][-3:] == [2, 3, 4]
    assert list(after[-1]["lr"]) == list(before[-1]["lr"]), "what trained at the end trains on"
    assert main(["train", "--resume", "run"]) == 2, "it is finished again"


def test_an_extended_run_may_be_stopped_and_extended_again(data: Path) -> None:
    for name in ("whole", "cut"):
        ftkit.train(planned(data, name))
        if name == "cut":
            shutil.copytree(Path("runs", name), Path("runs", "later"))
        assert main(["train", "--resume", name, "--extend", "1", "--quiet"]) == 0
        assert main(["train", "--resume", name, "--extend", "1", "--quiet"]) == 0
    assert dict(files(Path("runs", "whole"))) == dict(files(Path("runs", "cut")))
    assert len(records(Path("runs", "whole"))) == len(records(Path("runs", "later"))) + 2


def test_a_run_that_stopped_early_can_be_extended(data: Path) -> None:
    run = Path("runs", "run")
    ftkit.train(planned(data, epochs=6, patience=1, optimizer={"lr": 1e-9}, strategy="freeze"))
    before = len(records(run))
    assert before < 6
    assert main(["train", "--resume", "run", "--extend", "1", "--quiet"]) == 0
    assert len(records(run)) > before


def test_a_run_without_a_checkpoint_cannot_be_extended(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(half / "checkpoints")
    config = (half / "config.yaml").read_bytes()
    assert main(["train", "--resume", "run", "--extend", "1"]) == 2
    assert "no checkpoint to resume from" in capsys.readouterr().err
    assert (half / "config.yaml").read_bytes() == config


def test_checkpoints_by_the_clock(data: Path) -> None:
    keep = {"keep": 99}
    ftkit.train(planned(data, "never", checkpoint=keep))
    ftkit.train(planned(data, "always", checkpoint=keep | {"every_minutes": 1e-9}))
    names = [{p.name for p in Path("runs", name, "checkpoints").glob("e*")} for name in ("never", "always")]
    assert names[0] == {"e0001-s00000", "e0002-s00000"}
    assert names[1] == names[0] | {f"e{epoch:04d}-s{step:05d}" for epoch in (0, 1) for step in (1, 2, 3)}


def test_ends_of_quick_epochs_are_written_in_one_go(data: Path) -> None:
    runs = {"together": 3600, "each": 0}
    for name, seconds in runs.items():
        more: dict[str, Any] = {"strategy": "full", "epochs": 4, "checkpoint": {"keep": 99, "min_seconds": seconds}}
        ftkit.train(planned(data, name, **more))
    names = {name: sorted(p.name for p in Path("runs", name, "checkpoints").glob("e*")) for name in runs}
    assert names == {"together": ["e0004-s00000"], "each": [f"e000{epoch}-s00000" for epoch in (1, 2, 3, 4)]}
    # The best one, which had to wait in memory in one of them while others were trained.
    models = [Path("runs", name, "model") for name in runs]
    best = [json.loads((model / "model.json").read_text())["epoch"] for model in models]
    assert best[0] == best[1] < 4
    weights = [(model / "model.safetensors").read_bytes() for model in models]
    assert weights[0] == weights[1]
    assert records(Path("runs", "together")) == records(Path("runs", "each"))


class StopAfterEpoch(Listener):
    """A signal that comes when an epoch has just been recorded."""

    def __init__(self, epoch: int, signum: signal.Signals) -> None:
        self.epoch, self.signum = epoch, signum

    def epoch_done(self, event: EpochDone) -> None:
        if event.record["epoch"] == self.epoch:
            os.kill(os.getpid(), self.signum)


def test_a_signal_after_an_epoch_that_was_not_written_leaves_its_checkpoint_and_the_best_model(data: Path) -> None:
    settings: dict[str, Any] = {"strategy": "full", "epochs": 4, "checkpoint": {"keep": 99, "min_seconds": 3600}}
    with pytest.raises(RunInterrupted, match="a checkpoint is on disk"):
        ftkit.train(planned(data, **settings), StopAfterEpoch(2, signal.SIGTERM))
    run = Path("runs", "run")
    assert [p.name for p in (run / "checkpoints").glob("e*")] == ["e0002-s00000"]
    best = max(records(run), key=lambda line: line["val_accuracy"])
    card = json.loads((run / "model" / "model.json").read_text())
    assert card["epoch"] == best["epoch"]
    resume(run)
    ftkit.train(planned(data, "whole", **settings))
    assert dict(files(run)) == dict(files(Path("runs", "whole")))


def test_another_version_of_torch_is_reported(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        inside.write_versions(patch, {"torch": "0.4", "ftkit": ftkit.__version__})
        run = stopped(data)
    notes = Notes()
    resume(run, notes)
    assert [note for note in notes.notes if "started with torch 0.4" in note]
    assert not [note for note in notes.notes if "started with ftkit" in note]


class Impatient(Listener):
    """Ctrl-C, and again at once."""

    def step_done(self, event: StepDone) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_a_second_ctrl_c_stops_at_once_and_loses_nothing_that_was_saved(data: Path, half: Path) -> None:
    before = sorted(path.name for path in (half / "checkpoints").iterdir())
    with pytest.raises(RunInterrupted, match="stopped at once; the newest checkpoint is whole") as caught:
        resume(half, Impatient())
    assert caught.value.exit_code == 130
    assert caught.value.hint == f"ftkit train --resume {half}"
    assert sorted(path.name for path in (half / "checkpoints").iterdir()) == before
    resume(half)
    ftkit.train(planned(data, "whole"))
    assert dict(files(half)) == dict(files(Path("runs", "whole")))


class Failing(Listener):
    def step_done(self, event: StepDone) -> None:
        raise ValueError("its own")


def fail_with_workers(settings: dict[str, Any]) -> None:
    ftkit.train(ftkit.plan(**settings), Failing())


def test_a_run_that_fails_in_a_process_of_multiprocessing_ends_with_its_workers(data: Path) -> None:
    settings = SETTINGS | {"dataset": {"name": "folder", "root": str(data)}, "workers": 2, "name": "failed"}
    process = multiprocessing.get_context("spawn").Process(target=fail_with_workers, args=(settings,))
    process.start()
    process.join(300)
    process.kill()
    assert process.exitcode == 1


KILLED = """
import json, signal, sys
import ftkit
from tests.stopping import StopAt

ftkit.train(ftkit.plan(**json.loads(sys.argv[1])), StopAt(int(sys.argv[2]), signal.SIGKILL))
"""


@pytest.mark.parametrize(("strategy", "newest"), [("gradual", "e0002-s00000"), ("full", "e0001-s00003")])
def test_killed_outright_and_resumed_equals_never_stopped(strategy: str, newest: str, data: Path) -> None:
    settings = SETTINGS | {"dataset": {"name": "folder", "root": str(data)}, "epochs": 3, "strategy": strategy}
    settings["checkpoint"] = {"every_steps": 3, "min_seconds": 3600}
    request = json.dumps(settings | {"name": "killed", "output": str(Path("runs").absolute())})
    repository = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED, request, "9"], cwd=repository, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL
    run = Path("runs", "killed")
    assert (run / "checkpoints" / "LATEST").read_text() == newest
    resume(run)
    ftkit.train(ftkit.plan(**settings, name="whole"))
    assert dict(files(run)) == dict(files(Path("runs", "whole")))
    assert records(run) == records(Path("runs", "whole"))


@pytest.fixture
def moving(data: Path, tmp_path: Path) -> Path:
    """A run that was stopped, with data and first weights that can be taken away."""
    shutil.copytree(data, tmp_path / "data")
    first = ftkit.train(planned(tmp_path / "data", "first", epochs=1)).run.path
    shutil.copy(first / "last" / "model.safetensors", tmp_path / "weights.safetensors")
    return stopped(tmp_path / "data", "moving", weights=str(tmp_path / "weights.safetensors"), probe=False)


def test_a_run_resumes_without_the_file_of_its_first_weights(
    moving: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(moving, Path("runs", "whole"))
    shutil.copytree(moving, Path("runs", "new"))
    shutil.rmtree(Path("runs", "new", "checkpoints"))
    assert main(["train", "--resume", "whole", "--quiet"]) == 0
    (tmp_path / "weights.safetensors").unlink()
    assert main(["train", "--resume", "moving", "--quiet"]) == 0
    assert dict(files(moving)) == dict(files(Path("runs", "whole")))
    assert records(moving) == records(Path("runs", "whole"))
    capsys.readouterr()
    assert main(["train", "--resume", "new", "--quiet"]) == 2
    printed = capsys.readouterr().err
    assert "weights.safetensors, which the run starts from: it has no checkpoint yet" in printed
    assert "hint: put it back, or start a new run" in printed


def test_a_run_resumes_with_data_that_has_moved(
    moving: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(moving, Path("runs", "whole"))
    assert main(["train", "--resume", "whole", "--quiet"]) == 0
    place = tmp_path / "elsewhere" / "my data"
    place.parent.mkdir()
    (tmp_path / "data").rename(place)
    shutil.copytree(place, tmp_path / "other")
    (tmp_path / "other" / "train" / "a" / "0000.jpg").rename(tmp_path / "other" / "train" / "b" / "new.jpg")
    config = (moving / "config.yaml").read_bytes()
    assert main(["train", "--resume", "moving"]) == 2
    capsys.readouterr()
    assert main(["train", "--resume", "moving", "--data", "other", "--quiet"]) == 2
    assert (
        f"error: --data: its images, labels or classes are not those of {moving.absolute()}" in capsys.readouterr().err
    )
    assert (moving / "config.yaml").read_bytes() == config
    assert main(["train", "--resume", "moving", "--data", str(place), "--quiet"]) == 0
    assert dict(files(moving)) == dict(files(Path("runs", "whole")))
    assert str(place) in (moving / "config.yaml").read_text()


@pytest.mark.parametrize("name", ["my run", "it's $HOME", 'a "b" `c`', "x;y&z", "é (1)"])
def test_the_command_that_is_shown_is_read_back_by_a_shell(
    name: str, half: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = half.rename(half.with_name(name))
    shutil.rmtree(run / "model", ignore_errors=True)
    found = shlex.join(["ftkit", "train", "--resume", str(run)])
    done = (
        subprocess.run(
            ["sh", "-c", f"{found} --dry-run"],
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        if name == "it's $HOME"
        else None
    )
    assert done is None or done.returncode == 0, done.stderr
    assert main(["predict", "x.png", "--model", str(run)]) == 2
    assert f"hint: {found}\n" in capsys.readouterr().err
    assert main(["runs", "show", str(run)]) == 0
    assert found in capsys.readouterr().out
