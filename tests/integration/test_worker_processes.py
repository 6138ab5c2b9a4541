"""Worker processes end with the run that started them."""

from __future__ import annotations

import gc
import multiprocessing
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import ftkit
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
