"""A plugin's listeners: one that hangs holds up neither the run nor its signals, and a resume can be told apart."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.foreign_parts import CONFIG, PLUGIN, foreign_project
from tests.sessions import environment

HANGS = {
    "sleeps": "time.sleep(600)",
    "holds on": "exec('while True:\\n try: time.sleep(600)\\n except BaseException: pass')",
    "computes": "exec('while True: pass')",
}
LISTENER = """
import json, sqlite3, time
from ftkit.api import hookimpl

BASE = []

def note(run, *what):
    with open(run / "heard.txt", "a") as file:
        file.write(json.dumps(what) + "\\n")

@hookimpl
def ftkit_run_start(run, plan, resumed):
    note(run, "start", resumed)
    BASE.append(sqlite3.connect(run / "base.sqlite"))
    plan.clear()

@hookimpl
def ftkit_epoch_end(run, record):
    note(run, "epoch", record["epoch"])
    BASE[0].execute("select 1")
    HANG

@hookimpl
def ftkit_run_end(run, status):
    note(run, "end", status)
"""
QUIET = """
from ftkit.api import hookimpl

@hookimpl
def ftkit_run_start(run, plan):
    (run / "quiet.txt").write_text(plan["backbone"])

@hookimpl
def ftkit_epoch_end(run, record):
    (run / "quiet.txt").open("a").write(f" {record['epoch']}")
"""


def project(folder: Path, hang: str) -> Path:
    config = CONFIG.replace("[./foreign.py]", "[./foreign.py, ./bell.py, ./quiet.py]")
    foreign_project(folder, PLUGIN, config + "probe: false\nweights: none\ncheckpoint: {min_seconds: 0}\n")
    (folder / "bell.py").write_text(LISTENER.replace("HANG", hang))
    (folder / "quiet.py").write_text(QUIET)
    return folder


def start(folder: Path, *words: str, limit: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ftkit", "train", *words],
        cwd=folder,
        env=environment(folder, FTKIT_PLUGIN_TIMEOUT=limit),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def heard(folder: Path) -> list[list[object]]:
    path = folder / "runs" / "r" / "heard.txt"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=pytest.mark.long if how != "holds on" else ()) for how in HANGS]
)
def test_a_listener_that_hangs_is_left_behind(how: str, tmp_path: Path) -> None:
    folder = project(tmp_path / "p", HANGS[how])
    out, err = start(folder, "--name", "r", limit="1").communicate(timeout=120)
    assert "best epoch" in out, err
    log = (folder / "runs" / "r" / "train.log").read_text()
    messages = "plugin 'bell' hangs in ftkit_epoch_end: it takes more than 1 s (FTKIT_PLUGIN_TIMEOUT sets the limit)"
    assert log.count(messages) == 1
    assert heard(folder) == [["start", False], ["epoch", 1]]
    assert (folder / "runs" / "r" / "quiet.txt").read_text() == "foreign/net 1 2"


def test_a_signal_ends_the_wait_and_a_resume_is_reported(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", HANGS["sleeps"])
    process = start(folder, "--name", "r", limit="500")
    end = time.monotonic() + 100
    while len(heard(folder)) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - asked < 20
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "plugin 'bell' hangs in ftkit_epoch_end: SIGTERM came after" in err
    assert "a checkpoint is on disk" in err
    (folder / "bell.py").write_text(LISTENER.replace("HANG", "pass"))
    resumed = start(folder, "--resume", "r", limit="30")
    _, err = resumed.communicate(timeout=100)
    assert resumed.returncode == 0, err
    assert heard(folder) == [
        ["start", False], ["epoch", 1], ["start", True], ["epoch", 2], ["end", "done"]
    ]  # fmt: skip
