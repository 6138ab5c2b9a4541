"""How one of several processes ends: the first to fail says why, once, and none hangs at its exit."""

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
from ftkit.errors import FtkitError

FIRST, REPORTED, RUN, LOST = "first", "reported", "run", "lost"
PATIENCE = 10.0
"""Seconds that a process waits for another one to have said why all stop."""
PEER_ERRORS = {"DistBackendError", "DistNetworkError", "DistStoreError", "DistError"}


def folder() -> Path | None:
    """Where the processes that our agent started leave word for each other."""
    place = os.environ.get(launch_env.LAUNCH)
    return Path(place) if place and launch_env.launched() else None


def note_run(path: Path) -> None:
    """Tell the agent which run this is."""
    place = folder()
    if place is not None and launch_env.rank() == 0:
        (place / RUN).write_text(f"{launch_env.world()} {path}", encoding="utf-8")


def is_peer_loss(error: BaseException) -> bool:
    """Whether an error says no more than that another process is gone."""
    text = str(error)
    return type(error).__name__ in PEER_ERRORS or (
        isinstance(error, RuntimeError)
        and any(sign in text for sign in ("gloo", "Connection closed by peer", "Connection reset by peer"))
    )


def report_once(error: BaseException, explain: Callable[[BaseException], int]) -> int:
    """Explain an error unless another process has, or will; returns the exit code."""
    from ftkit.errors import RunInterrupted

    place = folder()
    if type(error).__name__ == "ReportedByMain" and isinstance(error, FtkitError):
        _wait_for_word(place)
        return error.exit_code
    if is_peer_loss(error) and place is not None:
        (place / f"{LOST}-{launch_env.rank()}").touch()
        return 1
    if place is None:
        silent = isinstance(error, RunInterrupted) and launch_env.rank() > 0
        return error.exit_code if silent and isinstance(error, RunInterrupted) else explain(error)
    code = _code(error)
    try:
        with (place / FIRST).open("x", encoding="utf-8") as file:
            file.write(f"{code}")
    except OSError:
        _wait_for_word(place)
        return code
    explain(error)
    sys.stderr.flush()
    (place / REPORTED).touch()
    return code


def end_workers() -> None:
    """Kill the processes that this one has started: at its exit, one that hangs would be waited for."""
    for child in multiprocessing.active_children():
        child.kill()


def leave(code: int) -> int:
    """End a process of several here and now: at a usual exit, threads of the lost connection may abort it."""
    if launch_env.world() == 1:
        return code
    end_workers()
    with suppress(FtkitError):
        streams.finish()
    sys.stderr.flush()
    os._exit(code)


def stop_with_agent() -> None:
    """Stop as on SIGTERM when our agent is gone, so that it leaves no orphan."""
    if folder() is None:
        return
    agent = os.getppid()

    def watch() -> None:
        while os.getppid() == agent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _code(error: BaseException) -> int:
    return 130 if isinstance(error, KeyboardInterrupt) else int(getattr(error, "exit_code", 1))


def _wait_for_word(place: Path | None) -> None:
    end = time.monotonic() + PATIENCE
    while place is not None and not (place / REPORTED).exists() and time.monotonic() < end:
        time.sleep(0.02)
