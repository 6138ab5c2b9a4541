"""SIGTERM and SIGHUP end a command as Ctrl-C does: one line, the signal's exit code, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ftkit.testing import draw_image
from tests.models import save_model

IMAGES = 1000
PATIENCE = 120.0
"""Seconds for a process to start or to end, on a busy machine."""
LONG = pytest.mark.long
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}

COMMAND = """
import time
from pathlib import Path

from ftkit.api import hookimpl


def wait() -> None:
    Path("ready").touch()
    time.sleep(600)


@hookimpl
def ftkit_commands():
    return {"wait": wait}
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and an image."""
    folder = tmp_path_factory.mktemp("work")
    save_model(folder / "model", "ab")
    draw_image(0, (32, 32), "x").save(folder / "a.png")
    return folder


def start(work: Path, *arguments: str) -> subprocess.Popen[str]:
    """`ftkit predict -` in a process group of its own, with an open stdin that has some image paths in it."""
    command = [sys.executable, "-m", "ftkit", "predict", "-", "--model", "model", "--batch-size", "2", *arguments]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, cwd=work, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )
    assert process.stdin is not None
    process.stdin.write("a.png\n" * IMAGES)
    process.stdin.flush()
    return process


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("signum", CODES)
def test_a_command_is_interrupted(signum: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(COMMAND)
    (tmp_path / "ftkit.yaml").write_text("plugins: [mine.py]\n")
    command = [sys.executable, "-m", "ftkit", "mine", "wait"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True)
    wait_until((tmp_path / "ready").exists)
    process.send_signal(signum)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (CODES[signum], "", "interrupted\n")


@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, *(pytest.param(s, marks=LONG) for s in (signal.SIGINT, signal.SIGHUP))]
)
def test_predict_is_interrupted_and_resumed(signum: signal.Signals, work: Path, tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    process = start(work, "--to", str(file))
    wait_until(lambda: file.exists() and file.stat().st_size > 0)
    process.send_signal(signum)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (CODES[signum], "")
    lines = err.splitlines()
    assert lines[-1] == "interrupted"
    assert lines[-2] == f"{file} has the predictions so far: add --resume to the same command to resume"
    assert "Traceback" not in err
    again = start(work, "--to", str(file), "--resume")
    _, err = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, err
    assert len(file.read_text().splitlines()) == IMAGES


@pytest.mark.parametrize("to_group", [False, pytest.param(True, marks=LONG)], ids=["the process", "the group"])
def test_several_processes_all_end(to_group: bool, work: Path, tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    process = start(work, "--to", str(file), "--num-processes", "2")
    wait_until(lambda: file.exists() and b"a.png" in file.read_bytes())
    os.killpg(process.pid, signal.SIGTERM) if to_group else process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143, err
    assert err.splitlines()[-1] == "interrupted"
    wait_until(lambda: group_is_gone(process.pid))


@pytest.mark.long
def test_processes_end_with_a_killed_main_process(work: Path, tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    process = start(work, "--to", str(file), "--num-processes", "2")
    wait_until(lambda: file.exists() and b"a.png" in file.read_bytes())
    process.kill()
    process.communicate(timeout=PATIENCE)
    wait_until(lambda: group_is_gone(process.pid))


def test_an_interrupted_parquet_file_leaves_nothing(work: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    process = start(work, "--to", str(tmp_path / "predictions.parquet"))
    wait_until(lambda: bool(list(tmp_path.iterdir())))
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 129
    assert err.splitlines()[-1] == "interrupted"
    assert "--resume" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_an_ignored_signal_stays_ignored(work: Path, tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start(work, "--to", str(file))
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_until(lambda: file.exists() and file.stat().st_size > 0)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert len(file.read_text().splitlines()) == IMAGES
