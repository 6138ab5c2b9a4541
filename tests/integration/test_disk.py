"""A disk that is full, read-only or broken: the run says so, and what was saved is good."""

from __future__ import annotations

import json
import resource
import shutil
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit import Listener, StepDone, resume
from ftkit.cli.main import main
from ftkit.errors import FtkitError
from ftkit.runs.checkpoint import load_checkpoint
from ftkit.training.preparation.disk_space import bytes_to_write
from ftkit.training.session import Session
from tests.conftest import MakeFolder
from tests.faults import KINDS, Disk, failing

SETTINGS: dict[str, Any] = {
    "backbone": "lenet",
    "weights": "none",
    "strategy": "gradual",
    "batch_size": 4,
    "epochs": 2,
    "workers": 0,
    "checkpoint": {"every_steps": 3},
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> dict[str, Any]:
    data = image_folder(tmp_path_factory.mktemp("data"), {"train": {"a": 8, "b": 8}, "val": {"a": 3, "b": 3}})
    return SETTINGS | {"dataset": {"name": "folder", "root": str(data)}}


@pytest.fixture(scope="module")
def whole(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of these settings that nothing befell."""
    return ftkit.train(ftkit.plan(**settings, output=str(tmp_path_factory.mktemp("whole")))).run.path


def weights(run: Path) -> list[bytes]:
    return [(run / name / "model.safetensors").read_bytes() for name in ("first", "model", "last")]


class SmallFiles(Listener):
    """From a step on, no file can grow beyond so many bytes, which the system itself sees to."""

    def __init__(self, step: int, size: int) -> None:
        self.left, self.size = step, size

    def step_done(self, event: StepDone) -> None:
        self.left -= 1
        if self.left == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextmanager
def limit_put_back() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_the_system_refuses_ends_the_run_and_keeps_the_last_checkpoint(
    settings: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    with (
        limit_put_back(),
        pytest.raises(FtkitError, match=r"checkpoints/.* can't be written: File too large") as caught,
    ):
        ftkit.train(ftkit.plan(**settings, output=str(tmp_path), name="run"), SmallFiles(6, 100_000))
    assert caught.value.exit_code == 1
    run = tmp_path / "run"
    state, damaged = load_checkpoint(run / "checkpoints")
    assert ((state.progress.epoch, state.progress.step), damaged) == ((1, 0), ())
    assert not list(run.rglob(".tmp-*"))
    resume(run)
    assert weights(run) == weights(whole)


def failed_at(
    settings: dict[str, Any], folder: Path, number: int, kind: int, capsys: pytest.CaptureFixture[str]
) -> Disk:
    """A run whose disk fails once; it must say so in one line, and be good for going on."""
    request = folder / "request.yaml"
    request.write_text(json.dumps(settings | {"output": str(folder / "runs"), "name": "run"}))
    with failing(Disk(folder / "runs", number, kind)) as disk:
        code = main(["train", "--config", str(request), "--quiet"])
    said = capsys.readouterr().err
    assert code in (0, 1), said
    assert "internal error" not in said
    if code:
        assert str(folder / "runs") in said
        assert len([line for line in said.splitlines() if line.startswith("error:")]) == 1
    return disk


def goes_on(folder: Path, settings: dict[str, Any]) -> Path:
    """The run that a person has in the end: the same one if it can go on, another one if it never began."""
    run = folder / "runs" / "run"
    if (run / "last").is_dir():
        return run
    if (run / "config.yaml").is_file():
        assert main(["train", "--resume", str(run), "--quiet"]) == 0
        return run
    shutil.rmtree(run, ignore_errors=True)
    return ftkit.train(ftkit.plan(**settings, output=str(folder / "runs"), name="run")).run.path


@pytest.fixture(scope="module")
def operations(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """All that a run does to its disk."""
    folder = tmp_path_factory.mktemp("counted")
    with failing(Disk(folder)) as disk:
        ftkit.train(ftkit.plan(**settings, output=str(folder)))
    return disk.done


def test_the_faults_reach_every_kind_of_operation(operations: list[str]) -> None:
    kinds = {operation.partition(" ")[0] for operation in operations}
    assert kinds == {"mkdir", "open", "save", "fsync", "rename", "replace"}
    assert len(operations) > 50


@pytest.mark.parametrize("part", range(6))
def test_a_fault_anywhere_is_one_line_and_nothing_is_lost(
    part: int,
    settings: dict[str, Any],
    whole: Path,
    operations: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    number = 1 + part * (len(operations) - 1) // 5
    failed_at(settings, tmp_path, number, KINDS[part % len(KINDS)], capsys)
    assert weights(goes_on(tmp_path, settings)) == weights(whole)


@pytest.mark.long
def test_a_fault_at_each_operation(
    settings: dict[str, Any],
    whole: Path,
    operations: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(1, len(operations) + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        failed_at(settings, folder, number, KINDS[number % len(KINDS)], capsys)
        assert weights(goes_on(folder, settings)) == weights(whole), operations[number - 1]
        shutil.rmtree(folder)


Usage = namedtuple("Usage", ["total", "used", "free"])


def test_too_little_room_is_said_before_training(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ftkit.training.preparation.disk_space.shutil.disk_usage", lambda path: Usage(10**9, 10**9 - 10**6, 10**6)
    )
    with pytest.raises(FtkitError, match=r"the run will write \d MB, and 1 MB are free there"):
        ftkit.train(ftkit.plan(**settings, output=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_says_it_needs_is_what_it_writes(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as the checkpoint that is written goes, which is gone when it ends."""
    expected: list[int] = []

    def note(session: Session) -> int:
        expected.append(bytes_to_write(session))
        return expected[0]

    monkeypatch.setattr("ftkit.training.preparation.disk_space.bytes_to_write", note)
    run = ftkit.train(ftkit.plan(**settings, output=str(tmp_path))).run.path
    written = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    assert 0.5 * expected[0] < written < expected[0]
