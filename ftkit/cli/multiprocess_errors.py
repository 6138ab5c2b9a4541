"""Errors in one of several processes: the first failure is reported once, and no process hangs at exit."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ftkit.cli.output import streams
from ftkit.distributed import launch_env
from ftkit.errors import FtkitError, RunInterrupted

FIRST, REPORTED, RUN, LOST = "first", "reported", "run", "lost"
REPORT_TIMEOUT = 10.0
"""Seconds that a process waits for another one to report the error that stops all."""
PEER_ERRORS = {"DistBackendError", "DistNetworkError", "DistStoreError", "DistError"}


def folder() -> Path | None:
    """The folder that processes started by our launcher share; None for other processes."""
    place = os.environ.get(launch_env.LAUNCH)
    return Path(place) if place and launch_env.launched() else None


def note_run(path: Path) -> None:
    """Record the run folder for the launcher's messages."""
    place = folder()
    if place is not None and launch_env.rank() == 0:
        (place / RUN).write_text(f"{launch_env.world()} {path}", encoding="utf-8")


def is_peer_loss(error: BaseException) -> bool:
    """Whether an error is only the consequence of another process's exit."""
    text = str(error)
    return type(error).__name__ in PEER_ERRORS or (
        isinstance(error, RuntimeError)
        and any(sign in text for sign in ("gloo", "Connection closed by peer", "Connection reset by peer"))
    )


def report_once(error: BaseException, report: Callable[[BaseException], int]) -> int:
    """Report an error unless another process reports it; returns the exit code."""
    place = folder()
    if type(error).__name__ == "ReportedByMain" and isinstance(error, FtkitError):
        _wait_for_report(place)
        return error.exit_code
    if is_peer_loss(error) and place is not None:
        (place / f"{LOST}-{launch_env.rank()}").touch()
        return 1
    if place is None:
        silent = isinstance(error, RunInterrupted) and launch_env.rank() > 0
        return error.exit_code if silent and isinstance(error, RunInterrupted) else report(error)
    code = 130 if isinstance(error, KeyboardInterrupt) else int(getattr(error, "exit_code", 1))
    try:
        with (place / FIRST).open("x", encoding="utf-8") as file:
            file.write(f"{code}")
    except OSError:
        _wait_for_report(place)
        return code
    report(error)
    sys.stderr.flush()
    (place / REPORTED).touch()
    return code


def kill_workers() -> None:
    """Kill the child processes of this one; at exit, Python would wait for one that hangs."""
    for child in multiprocessing.active_children():
        child.kill()


def exit_process(code: int) -> int:
    """Exit at once if this is one of several processes: threads of a lost connection may abort a regular exit."""
    if launch_env.world() == 1:
        return code
    kill_workers()
    with suppress(FtkitError):
        streams.finish()
    sys.stderr.flush()
    os._exit(code)


def stop_with_agent() -> None:
    """Send SIGTERM to this process when the launcher is gone, so that no process is orphaned."""
    if folder() is None:
        return
    agent = os.getppid()

    def watch() -> None:
        while os.getppid() == agent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _wait_for_report(place: Path | None) -> None:
    end = time.monotonic() + REPORT_TIMEOUT
    while place is not None and not (place / REPORTED).exists() and time.monotonic() < end:
        time.sleep(0.02)
