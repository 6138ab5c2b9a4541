"""Worker processes start before the network trains, and end with the run that started them."""

from __future__ import annotations

import gc
import multiprocessing
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import ftkit
from ftkit import Listener, StepDone
from ftkit.errors import RunInterrupted
from tests.stopping import StopAt


@pytest.fixture(autouse=True)
def without_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(autouse=True)
def before() -> set[int | None]:
    """Processes that other tests have left."""
    return started()


def started() -> set[int | None]:
    return {process.pid for process in multiprocessing.active_children()}


def plan(output: Path, name: str) -> ftkit.Plan:
    return ftkit.plan(
        dataset="digits", train_samples=64, epochs=2, workers=2, strategy="full", output=str(output), name=name
    )


def test_a_finished_run_leaves_no_process(tmp_path: Path, before: set[int | None]) -> None:
    for name in ("one", "two"):
        ftkit.train(plan(tmp_path, name))
        assert started() <= before


def test_an_interrupted_run_leaves_no_process(tmp_path: Path, before: set[int | None]) -> None:
    with pytest.raises(RunInterrupted):
        ftkit.train(plan(tmp_path, "run"), StopAt(3, signal.SIGTERM))
    assert started() <= before
    ftkit.resume(tmp_path / "run")
    assert started() <= before


class WorkersAt(Listener):
    """The worker processes that run after each step."""

    def __init__(self) -> None:
        self.steps: list[set[int | None]] = []

    def step_done(self, event: StepDone) -> None:
        self.steps.append(started())


def test_all_workers_start_before_the_first_step(tmp_path: Path, before: set[int | None]) -> None:
    """A process that forks after it has trained copies each page of its memory that it changes again."""
    seen = WorkersAt()
    ftkit.train(plan(tmp_path, "run"), seen)
    assert len(seen.steps) > 2
    assert len(seen.steps[0] - before) == 4, "two workers each for training and validation images"
    assert all(each == seen.steps[0] for each in seen.steps)
