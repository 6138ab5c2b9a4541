"""What training promises beside resume: batches, weights, early stopping, stop signals, refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ftkit
from ftkit import Listener, RunStarted
from ftkit.errors import FtkitError, RequestError, RunInterrupted
from tests import inside
from tests.conftest import MakeFolder, RunFtkit
from tests.runs import card, plan, tensors
from tests.stopping import StopAt


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    layout = {"train": {"a": 9, "b": 9}, "val": {"a": 4, "b": 4}, "test": {"a": 2, "b": 2}}
    return image_folder(tmp_path_factory.mktemp("data"), layout)


def test_accumulated_batches_make_the_step_of_one_large_batch(data: Path, tmp_path: Path) -> None:
    """In a network without BatchNorm the two ways are the same arithmetic but for rounding."""
    common: dict[str, Any] = {"backbone": "lenet", "augment": "none", "optimizer": {"name": "sgd", "lr": 0.1}}
    common["precision"] = "fp32"
    whole = ftkit.train(plan(data, tmp_path / "whole", batch_size=9, strategy="scratch", **common))
    parts = ftkit.train(plan(data, tmp_path / "parts", batch_size=3, accumulate=3, strategy="scratch", **common))
    first, second = (tensors(r.run.path) for r in (whole, parts))
    assert all(torch.allclose(first[k], second[k], rtol=1e-3, atol=1e-5) for k in first)


def test_epoch_metrics_cover_each_image_once(data: Path, tmp_path: Path) -> None:
    outcome = ftkit.train(plan(data, tmp_path, epochs=1))
    record = outcome.records[0]
    assert record["train_accuracy"] * 18 == pytest.approx(round(record["train_accuracy"] * 18))
    assert record["val_accuracy"] * 8 == pytest.approx(round(record["val_accuracy"] * 8))


def test_early_stopping_counts_epochs_without_a_better_one(data: Path, tmp_path: Path) -> None:
    settings = {"epochs": 20, "patience": 3, "optimizer": {"lr": 1e-12}, "monitor": "accuracy", "strategy": "full"}
    outcome = ftkit.train(plan(data, tmp_path, **settings))
    assert outcome.stopped_early
    assert [r["epoch"] for r in outcome.records] == [1, 2, 3, 4]
    assert outcome.best["epoch"] == 1


STILL: dict[str, Any] = {"optimizer": {"lr": 1e-12}, "patience": 2, "epochs": 9}
"""A run in which nothing gets better, so that patience ends as soon as it may."""


@pytest.mark.parametrize(
    ("strategy", "more", "last"),
    [
        ("full", {}, 3),
        ({"name": "freeze-unfreeze", "unfreeze_epoch": 4}, {}, 7),
        ({"name": "gradual", "every": 1}, {}, 7),
        ({"name": "milestones", "milestones": [2, 5], "num_layers": 2}, {}, 8),
        ({"name": "then", "first": "freeze", "second": {"name": "gradual", "every": 2}, "at": 2}, {}, 9),
        ({"name": "freeze-unfreeze", "unfreeze_epoch": 4}, {"patience_from": "start"}, 3),
        ({"name": "freeze-unfreeze", "unfreeze_epoch": 4}, {"weights": "again"}, 7),
    ],
)
def test_patience_counts_within_the_last_phase(
    strategy: Any, more: dict[str, Any], last: int, data: Path, tmp_path: Path
) -> None:
    if more:
        first = ftkit.train(plan(data, tmp_path / "first", epochs=1))
        more = {"weights": str(first.run.last / "model.safetensors")} if "weights" in more else more
    outcome = ftkit.train(plan(data, tmp_path, strategy=strategy, **STILL, **more))
    assert outcome.records[-1]["epoch"] == last
    assert outcome.stopped_early == (last < 9)


def test_patience_compares_with_the_epochs_of_its_phase(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thaw costs accuracy; the epochs that gain it back are no wasted ones, though an earlier one was better."""
    inside.evaluate_epochs_as(monkeypatch, "accuracy", [0.8, 0.9, 0.5, 0.6, 0.7, 0.7, 0.65, 0.9])
    strategy = {"name": "freeze-unfreeze", "unfreeze_epoch": 2}
    outcome = ftkit.train(plan(data, tmp_path, strategy=strategy, patience=2, epochs=20))
    assert [r["epoch"] for r in outcome.records] == [1, 2, 3, 4, 5, 6, 7]
    assert outcome.stopped_early
    assert outcome.best["epoch"] == 2


def test_the_epoch_that_a_run_stopped_early_after_is_that_of_its_last_record(
    data: Path, tmp_path: Path, run_ftkit: RunFtkit
) -> None:
    weights = ftkit.train(plan(data, tmp_path / "first", epochs=1)).run.path
    settings = ("--weights", str(weights), "--backbone", "cifar_resnet20", "--strategy", "full", "--lr", "1e-12")
    done = run_ftkit(
        *("train", "--data", str(data), *settings, "--patience", "2", "--epochs", "9", "--workers", "0"), cwd=tmp_path
    )
    assert "best epoch 0 of 9, stopped early after epoch 3: " in done.stdout, done.stdout + done.stderr
    listed = json.loads(run_ftkit("runs", "list", "--json", cwd=tmp_path).stdout)
    assert listed[0]["epochs"] == 3


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"patience": 4, "epochs": 4}, "patience 4 can't stop the run before its end: it has 4 epochs"),
        (
            {"patience": 2, "epochs": 4, "strategy": {"name": "freeze-unfreeze", "unfreeze_epoch": 2}},
            "patience 2 can't stop the run before its end: the last phase has 2 epochs",
        ),
        ({"patience": 2, "epochs": 4}, ""),
    ],
)
def test_patience_that_cannot_stop_the_run_is_noted(
    settings: dict[str, Any], says: str, data: Path, tmp_path: Path
) -> None:
    notes = [note for note in plan(data, tmp_path, **({"strategy": "full"} | settings)).notes if "patience" in note]
    assert len(notes) == bool(says)
    assert not says or notes[0].startswith(says)


def test_patience_from_is_refused_without_patience(data: Path, tmp_path: Path, run_ftkit: RunFtkit) -> None:
    done = run_ftkit("plan", "--data", str(data), "--backbone", "lenet", "--set", "patience_from=start", cwd=tmp_path)
    assert done.returncode == 2
    assert "--set patience_from has no effect without patience" in done.stderr


def test_the_bundle_is_of_the_best_epoch_and_last_of_the_last(data: Path, tmp_path: Path) -> None:
    outcome = ftkit.train(plan(data, tmp_path, epochs=4, optimizer={"lr": 0.05}, monitor="loss"))
    losses = [r["val_loss"] for r in outcome.records]
    cards = {name: card(outcome.run.path / name) for name in ("model", "last")}
    assert outcome.best["val_loss"] == min(losses)
    assert cards["model"]["metrics"]["val_loss"] == min(losses)
    assert cards["last"]["metrics"]["val_loss"] == losses[-1]
    assert cards["model"]["classes"] == ["a", "b"]


def test_keep_head_with_no_epochs_bundles_the_weights_as_they_are(data: Path, tmp_path: Path) -> None:
    trained = ftkit.train(plan(data, tmp_path, epochs=1))
    weights = trained.run.last / "model.safetensors"
    again = ftkit.train(plan(data, tmp_path, epochs=0, keep_head=True, weights=str(weights)))
    before, after = load_file(weights), load_file(again.run.model / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert again.best["val_accuracy"] == trained.records[-1]["val_accuracy"]


def test_a_run_is_the_weights_of_the_next_and_its_head_is_dropped(data: Path, tmp_path: Path) -> None:
    first = ftkit.train(plan(data, tmp_path, epochs=1))
    reported: list[str] = []

    class Heard(Listener):
        def started(self, event: RunStarted) -> None:
            reported.append(event.loaded)

    ftkit.train(plan(data, tmp_path, epochs=1, weights=str(first.run.path), strategy="freeze"), Heard())
    assert "head not loaded" in reported[0]


def test_a_keep_head_of_another_size_is_refused(data: Path, tmp_path: Path) -> None:
    trained = ftkit.train(plan(data, tmp_path, epochs=1))
    state = load_file(trained.run.last / "model.safetensors")
    head = {k: v for k, v in state.items() if v.shape[:1] == (2,)}
    save_file({**state, **{k: torch.zeros(5, *v.shape[1:]) for k, v in head.items()}}, tmp_path / "five.safetensors")
    with pytest.raises(RequestError, match="head"):
        ftkit.train(plan(data, tmp_path, keep_head=True, weights=str(tmp_path / "five.safetensors")))


@pytest.mark.skipif(sys.platform == "win32", reason="has no permission bits")
def test_files_have_the_permissions_of_other_new_files(data: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"backbone": "lenet", "epochs": 1}
    ftkit.train(plan(data, tmp_path / "runs", name="one", **settings))
    ftkit.train(plan(data / "train", tmp_path / "runs", name="folds", validation="kfold", folds=2, **settings))
    (tmp_path / "new").touch()
    written = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {path.name for path in written} >= {"model.safetensors", "optimizer.safetensors", "conformal.json"}
    assert {path.stat().st_mode for path in written} == {(tmp_path / "new").stat().st_mode}


def test_a_run_that_cant_start_leaves_no_folder(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="fp16 doesn't work on the CPU"):
        ftkit.train(plan(data, tmp_path, device="cpu", precision="fp16"))
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_place(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FtkitError, match=r"the loss is not finite in epoch \d+, step \d+, on .*\.png"):
        ftkit.train(plan(data, tmp_path, optimizer={"name": "sgd", "lr": 1e30}, epochs=3, strategy="scratch"))


def test_a_batch_of_one_under_batchnorm_is_refused_before_training(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="BatchNorm"):
        ftkit.train(plan(data, tmp_path, batch_size=1, strategy="full"))


def test_an_image_that_breaks_is_named(image_folder: MakeFolder, tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data", {"train": {"a": 4, "b": 4}, "val": {"a": 2, "b": 2}})
    (data / "train" / "b" / "0001.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(FtkitError, match=r"b/0001\.png"):
        ftkit.train(plan(data, tmp_path))


@pytest.mark.parametrize(
    "signum", [signal.SIGINT, *(pytest.param(s, marks=pytest.mark.long) for s in (signal.SIGTERM, signal.SIGUSR1))]
)
def test_a_signal_leaves_a_checkpoint_and_the_command_that_resumes(
    signum: signal.Signals, data: Path, tmp_path: Path
) -> None:
    arguments = ["train", "--data", str(data), "--backbone", "cifar_resnet20", "--weights", "none", "--epochs", "500"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ftkit", *arguments, "--workers", "1", "--name", "run", "--output", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signum)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert printed.splitlines()[-1] == f"hint: ftkit train --resume {tmp_path / 'run'}"
    assert (tmp_path / "run" / "checkpoints" / "LATEST").exists()
    assert "Traceback" not in printed


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_each_signal_has_its_own_exit_code(signum: signal.Signals, data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunInterrupted) as caught:
        ftkit.train(plan(data, tmp_path, strategy="freeze", name="run"), StopAt(1, signum))
    assert caught.value.exit_code == 128 + signum
    assert (tmp_path / "run" / "checkpoints" / "LATEST").exists()


@pytest.mark.long
def test_the_default_run_is_transfer_learning_that_works_offline(run_ftkit: RunFtkit, tmp_path: Path) -> None:
    done = run_ftkit("train", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["best"]["val_accuracy"] > 0.9
    assert Path(result["run"]).parent == tmp_path / "runs"


def test_the_last_lines_say_what_to_do_next(run_ftkit: RunFtkit, tmp_path: Path) -> None:
    done = run_ftkit("train", "--epochs", "1", "--strategy", "freeze", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "ftkit train --data FOLDER" in done.stdout.splitlines()[-1]
    assert any(line.startswith("predict your images:") for line in done.stdout.splitlines())
