"""Trackers: what is in TensorBoard's files, once each however often the run is stopped, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.tracking import GeneralTracker, TensorBoardTracker

import ftkit
from ftkit import EpochDone, Listener, resume
from ftkit.errors import FtkitError, RequestError, RunInterrupted
from tests import inside, runs
from tests.conftest import MakeFolder
from tests.stopping import StopAt

plan = runs.planner(name="run", epochs=3, strategy="gradual", tracker=["tensorboard"])
VAL_METRICS = ("loss", "accuracy", "macro_f1", "weighted_f1", "auroc", "calibration_error")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    layout = {"train": {"a|b": 9, "c": 9}, "val": {"a|b": 4, "c": 4}}
    return image_folder(tmp_path_factory.mktemp("data"), layout)


def resume_later(run: Path, listener: Listener | None = None) -> ftkit.Outcome:
    """Resume in another second, as a new process would: TensorBoard orders its files by the second."""
    time.sleep(1.1)
    return resume(run, listener)


def events(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    return read.Reload()


def series(read: Any) -> dict[str, list[tuple[int, float]]]:
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def expected(outcome: ftkit.Outcome) -> dict[str, list[tuple[int, Any]]]:
    """The records of the run folder in the form of the event files, which hold single precision."""
    found: dict[str, list[tuple[int, Any]]] = {}

    def add(tag: str, record: dict[str, Any], value: float) -> None:
        found.setdefault(tag, []).append((record["epoch"], pytest.approx(value, rel=1e-6)))

    for record in outcome.records:
        for name in ("loss", "accuracy"):
            add(f"train/{name}", record, record[f"train_{name}"])
        for name in VAL_METRICS:
            add(f"val/{name}", record, record[f"val_{name}"])
        for kind in ("lr", "weight_drift"):
            for group, value in record[kind].items():
                add(f"{kind}/{group}", record, value)
        add("seconds", record, record["seconds"])
    return found


def test_tensorboard_has_every_metric_of_every_epoch(data: Path, tmp_path: Path) -> None:
    outcome = ftkit.train(plan(data, tmp_path))
    found = series(events(outcome.run.path))
    assert found == expected(outcome)
    assert [step for step, _ in found["lr/head"]] == [1, 2, 3]
    assert [step for step, _ in found["lr/layer3"]] == [2, 3]


def test_tensorboard_has_the_config_and_the_confusion_matrix(data: Path, tmp_path: Path) -> None:
    outcome = ftkit.train(plan(data, tmp_path, epochs=1))
    read = events(outcome.run.path)
    texts = {tag: read.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in read.Tags()["tensors"]}
    assert "backbone: cifar_resnet20" in texts["config/text_summary"]
    table = texts["val/confusion/text_summary"].splitlines()
    assert table[0] == "| true \\ predicted | a\\|b | c |"
    numbers = [int(cell) for line in table[2:] for cell in line.replace("a\\|b", "").split("|")[2:-1]]
    assert sum(numbers) == 8
    assert (numbers[0] + numbers[3]) / 8 == outcome.records[0]["val_accuracy"]
    image = read.Images("val/confusion")[-1]
    assert (image.width, image.height, image.step) == (320, 320, 1)
    settings = read.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"optimizer.lr" in settings


@pytest.mark.parametrize("steps", [(2,), (4, 2)])
def test_a_stopped_run_resumes_in_the_same_place_without_a_step_twice(
    steps: tuple[int, ...], data: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunInterrupted):
        ftkit.train(plan(data, tmp_path), StopAt(steps[0]))
    for step in steps[1:]:
        with pytest.raises(RunInterrupted):
            resume_later(tmp_path / "run", StopAt(step))
    outcome = resume_later(tmp_path / "run")
    read = events(tmp_path / "run")
    assert series(read) == expected(outcome)
    assert [image.step for image in read.Images("val/confusion")] == [1, 2, 3]
    assert len(read.Tensors("config/text_summary")) == 1


def test_an_epoch_trained_again_is_not_sent_again(data: Path, tmp_path: Path) -> None:
    """The newest checkpoint is damaged, so the run goes back by an epoch that TensorBoard knows already."""

    class StopAfterTwo(Listener):
        def epoch_done(self, event: EpochDone) -> None:
            if event.record["epoch"] == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(RunInterrupted):
        ftkit.train(plan(data, tmp_path), StopAfterTwo())
    (runs.newest_checkpoint(tmp_path / "run") / "model.safetensors").write_bytes(b"")
    resume_later(tmp_path / "run")
    found = series(events(tmp_path / "run"))
    assert [step for step, _ in found["val/loss"]] == [1, 2, 3]


def test_what_a_kill_left_unnoted_is_replaced(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kill comes after epoch 2 was sent and before that is noted: it is sent again, and shows once."""
    inside.end_before_sent_epoch_is_recorded(monkeypatch, 2)
    with pytest.raises(SystemExit):
        ftkit.train(plan(data, tmp_path))
    monkeypatch.undo()
    assert json.loads((tmp_path / "run" / "trackers.json").read_text())["epoch"] == 1
    outcome = resume_later(tmp_path / "run")
    assert series(events(tmp_path / "run")) == expected(outcome)


def test_a_run_without_trackers_leaves_nothing_of_them(data: Path, tmp_path: Path) -> None:
    ftkit.train(plan(data, tmp_path, tracker=[], epochs=1))
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert not (tmp_path / "run" / "trackers.json").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_tracker_that_isnt_installed_is_refused_before_training(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.pretend_installed(monkeypatch, lambda package: package != name)
    with pytest.raises(RequestError, match=f"tracker '{name}' isn't installed") as caught:
        plan(data, tmp_path, tracker=[name])
    assert f"pip install 'ftkit[{name}]'" in (caught.value.hint or "")
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused_with_those_there_are(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"tracker.*tensorboard, wandb, mlflow"):
        plan(data, tmp_path, tracker=["comet"])


def test_a_tracker_that_cant_start_ends_the_run_in_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any) -> None:
        raise OSError("no room\nleft")

    monkeypatch.setattr(TensorBoardTracker, "start", refuse)
    with pytest.raises(FtkitError) as caught:
        ftkit.train(plan(data, tmp_path))
    assert caught.value.message == r"--tracker tensorboard: OSError: no room\nleft"


def test_a_tracker_that_fails_later_costs_no_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, values: Any, step: int | None = None) -> None:
        raise OSError("gone")

    monkeypatch.setattr(TensorBoardTracker, "log", refuse)
    outcome = ftkit.train(plan(data, tmp_path, epochs=2), listener := runs.Notes())
    assert len(outcome.records) == 2
    assert listener.notes == [
        "tracker tensorboard failed at epoch 1: OSError: gone; the training and other trackers continue, and its "
        "missing epochs are listed at the end",
        "tracker tensorboard lacks epoch 1, 2",
    ]


class Other(GeneralTracker):  # type: ignore[misc] # accelerate has no types
    """Stands for a tracker that isn't installed here; takes what it is given, or fails."""

    name = "mlflow"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, fails: str = "") -> None:
        super().__init__()
        self.fails = fails
        self.taken: list[int] = []

    @property
    def tracker(self) -> Any:
        return SimpleNamespace(info=SimpleNamespace(run_id="1"))

    def start(self) -> None:
        if self.fails == "start":
            raise SystemExit("no server")

    def log(self, values: Any, step: int | None = None, **more: Any) -> None:
        if self.fails == "log" or (self.fails == "once" and step == 1):
            raise ValueError("no such server")
        assert step is not None
        self.taken.append(step)

    def finish(self) -> None:
        if self.fails == "finish":
            raise ConnectionError("not all was sent")


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Other]:
    """Puts a tracker of its own under the name of one that isn't installed."""

    def put(fails: str) -> Other:
        made = Other(fails)
        inside.use_tracker(monkeypatch, "mlflow", made)
        return made

    return put


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        ("log", ["tracker mlflow failed at epoch 1: ValueError: no such server", "tracker mlflow lacks epoch 1, 2"]),
        ("once", ["tracker mlflow failed at epoch 1: ValueError: no such server", "tracker mlflow lacks epoch 1"]),
        ("finish", ["tracker mlflow failed to finish: ConnectionError: not all was sent"]),
    ],
)
def test_a_tracker_that_fails_is_named_and_starves_no_other(
    fails: str, says: list[str], data: Path, tmp_path: Path, other: Callable[[str], Other]
) -> None:
    made = other(fails)
    outcome = ftkit.train(plan(data, tmp_path, epochs=2, tracker=["mlflow", "tensorboard"]), listener := runs.Notes())
    assert series(events(tmp_path / "run")) == expected(outcome)
    assert [note[: len(printed)] for note, printed in zip(listener.notes, says, strict=True)] == says
    assert made.taken == {"log": [], "once": [2], "finish": [1, 2]}[fails]


def test_of_several_trackers_the_one_that_cant_start_is_named(
    data: Path, tmp_path: Path, other: Callable[[str], Other]
) -> None:
    other("start")
    with pytest.raises(FtkitError, match=r"^--tracker mlflow: SystemExit: no server"):
        ftkit.train(plan(data, tmp_path, epochs=1, tracker=["tensorboard", "mlflow"]))
