"""A disk that is full, read-only or broken: the run says so, and what was saved is good."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit import Listener, StepDone, resume
from ftkit.cli.main import main
from ftkit.errors import FtkitError
from tests.conftest import MakeFolder
from tests.faults import KINDS, Disk, failing
from tests.runs import checkpointed_often, is_whole, models, newest_checkpoint


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> dict[str, Any]:
    data = image_folder(tmp_path_factory.mktemp("data"), {"train": {"a": 8, "b": 8}, "val": {"a": 3, "b": 3}})
    return checkpointed_often(data)


@pytest.fixture(scope="module")
def whole(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of these settings that nothing befell."""
    return ftkit.train(ftkit.plan(**settings, output=str(tmp_path_factory.mktemp("whole")))).run.path


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
    assert newest_checkpoint(run).name == "e0001-s00000"
    assert is_whole(newest_checkpoint(run))
    assert not list(run.rglob(".tmp-*"))
    resume(run)
    assert models(run) == models(whole)


def failed_at(
    settings: dict[str, Any], folder: Path, number: int, kind: int, capsys: pytest.CaptureFixture[str]
) -> Disk:
    """A run whose disk fails once; it must say so in one line, and can be resumed."""
    request = folder / "request.yaml"
    request.write_text(json.dumps(settings | {"output": str(folder / "runs"), "name": "run"}))
    with failing(Disk(folder / "runs", number, kind)) as disk:
        code = main(["train", "--config", str(request), "--quiet"])
    printed = capsys.readouterr().err
    assert code in (0, 1), printed
    assert "internal error" not in printed
    if code:
        assert str(folder / "runs") in printed
        assert len([line for line in printed.splitlines() if line.startswith("error:")]) == 1
    return disk


def finished(folder: Path, settings: dict[str, Any]) -> Path:
    """The finished run: the same one, resumed, or a new one where none had started."""
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


def test_a_fault_while_the_run_folder_is_made_leaves_none(
    settings: dict[str, Any], operations: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = [number for number, operation in enumerate(operations, start=1) if operation.endswith("config.yaml")]
    assert configs[-1] > 4
    for number in range(2, configs[-1] + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        failed_at(settings, folder, number, KINDS[number % len(KINDS)], capsys)
        assert not (folder / "runs" / "run").exists(), operations[number - 1]


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
    assert models(finished(tmp_path, settings)) == models(whole)


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
        assert models(finished(folder, settings)) == models(whole), operations[number - 1]
        shutil.rmtree(folder)
