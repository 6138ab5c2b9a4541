"""Worker processes that read images: their number, the resources they need, and the reason if one of them dies.

A worker sends a batch to the main process through shared memory, and its file descriptor through a socket in the
temporary folder. If one of these fails, the batch is lost and the main process would wait for it forever. So shared
memory, the temporary folder and the limit of open files are checked before the start, and a worker that can't send a
batch exits and leaves the reason for the main process.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import queues, util
from multiprocessing.sharedctypes import RawArray, RawValue
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from ftkit.distributed.cores import available_cores
from ftkit.errors import FtkitError, RequestError, one_line

START = "fork" if sys.platform == "linux" else None
"""Start method of workers: Python's default on Linux before 3.14. Workers of its successor, a fork server, survive if
the run is killed, and take seconds to start."""
PREFETCH = 4
"""Batches that each worker prefetches."""
SHARED = Path("/dev/shm")
SOCKET_NAME = len("/pymp-12345678/listener-12345678")
"""Length of Python's socket names, relative to the temporary folder."""
LONGEST_SOCKET = 107 if sys.platform == "linux" else 103
"""Maximum length of a socket's path."""
FILES, FILES_EACH = 60, 24
"""Open files of a loader, and additional ones per worker: pipes, sockets, batches in transfer."""
LEAST_SHARED = 2**18
"""Bytes of shared memory for locks and queues, without batches."""
EXIT_DELAY = 0.5
"""Seconds to wait for the system to report the exit of a worker."""
REASON_BYTES = 1000
"""Maximum length of a worker's exit reason."""

SHM_HINT = "give fewer --workers, or 0; in a container, more shared memory: docker run --shm-size 8g"
REMEDY = "give --workers 0"


def resolve_workers(workers: int | Literal["auto"], images: int, world: int = 1) -> int:
    """Number of worker processes of a loader; for `auto` one less than the cores per process, and 0 for tiny splits.

    Starting a worker takes about as long as reading a few hundred images.
    """
    if workers != "auto":
        return workers
    return 0 if images < 64 else max(1, min(8, available_cores() // world - 1))


def choose_workers(
    requested: int | Literal["auto"], images: int, world: int, batch_bytes: int, notify: Callable[[str], None]
) -> int:
    """The requested number of worker processes; for `auto`, as many as the resources of the machine allow.

    Args:
        batch_bytes: Size of one batch of images.
        notify: Called with a line if that is fewer than usual.

    Raises:
        RequestError: The machine lacks resources for the requested number; names the resource and the amount.
    """
    wanted = workers = resolve_workers(requested, images, world)
    missing: RequestError | None = None
    while workers and (found := _missing_resource(workers, world, batch_bytes)) is not None:
        if requested != "auto":
            raise found
        missing, workers = found, workers - 1
    if missing is not None:
        text = f"{workers} of {wanted} worker processes read" if workers else "the training process itself reads"
        notify(f"{text} the images: {missing.message} ({missing.hint})")
    return workers


def _missing_resource(workers: int, world: int, batch_bytes: int) -> RequestError | None:
    """The error for a resource that is too small for the workers of all processes on this machine."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    needed = local * max(LEAST_SHARED, (PREFETCH * workers + 1) * batch_bytes)
    if (free := _free()) < needed:
        return RequestError(
            f"{SHARED} (shared memory, shm) has {_megabytes(free)} MB free, and {_of(workers)} with batches of "
            f"{_megabytes(batch_bytes)} MB {'need' if workers > 1 else 'needs'} {_megabytes(needed)} MB",
            SHM_HINT,
        )
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) + SOCKET_NAME > LONGEST_SOCKET:
        return RequestError(
            f"TMPDIR {folder} is too long for the sockets of worker processes: {len(os.fsencode(folder))} bytes, "
            f"{LONGEST_SOCKET - SOCKET_NAME} at most",
            f"set TMPDIR to a shorter path, or {REMEDY}",
        )
    limit, files = resource.getrlimit(resource.RLIMIT_NOFILE)[0], _open_files() + FILES + FILES_EACH * workers
    if limit != resource.RLIM_INFINITY and limit < files:
        return RequestError(
            f"the limit of open files is {limit}, and {_of(workers)} {'need' if workers > 1 else 'needs'} {files}",
            f"raise the limit: ulimit -n {max(1024, files)}; or {REMEDY}",
        )
    return None


def _of(workers: int) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''}"


def _megabytes(count: int) -> str:
    return f"{count / 2**20:,.2g}" if count < 10 * 2**20 else f"{count / 2**20:,.0f}"


def _open_files() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return len(os.listdir(folder))  # noqa: PTH208 - numbers
    return 0


def init_worker(exiting: Any, reason: Any, worker: int) -> None:
    """Set the signal handlers of a worker.

    Signals that stop a run reach its whole process group, but only the main process handles them: it still needs
    batches to complete a step for its checkpoint. SIGTERM ends a worker only while the main process exits (`exiting`),
    since Python then sends SIGTERM to its workers and waits for them.

    Args:
        exiting: Shared flag of `process_exiting`.
        reason: Shared buffer of `exit_reason`.
    """
    signal.set_wakeup_fd(-1)  # It belongs to the main process, which would treat a worker's signals as its own.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if exiting.value else None)

    def end(error: BaseException, _: Any) -> None:
        """Exit, instead of Python's default, which prints a traceback, drops the batch and continues."""
        reason.value = one_line(f"{type(error).__name__}: {error}").encode()[: REASON_BYTES - 1]
        os._exit(1)

    sys.excepthook = _ignore_lost_receiver
    queues.Queue._on_queue_feeder_error = staticmethod(end)  # type: ignore[attr-defined] # not in the stubs


def _ignore_lost_receiver(kind: type[BaseException], error: BaseException, found: TracebackType | None) -> None:
    """Print no traceback where the main process stops receiving a batch, as it does when another worker is killed.

    In a worker, only the thread that sends file descriptors calls `sys.excepthook`. The main process reports the
    reason.
    """
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, found)


@cache
def process_exiting(process: int) -> Any:
    """Flag that is set when process `process` exits; shared with its workers."""
    shared = RawValue("b", 0)
    # Not atexit, which processes of multiprocessing don't call: a finalizer is called before workers are terminated.
    util.Finalize(None, setattr, args=(shared, "value", 1), exitpriority=100)
    return shared


@cache
def exit_reason(process: int) -> Any:
    """Buffer for the reason why a worker of process `process` exited; shared with its workers."""
    return RawArray("c", REASON_BYTES)


_KILLED = re.compile(r"DataLoader worker \(pid (\d+)\) is killed by signal: (.+?)\. ")
_ENDED = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) exited unexpectedly|Pin memory thread exited")
_SIGNALS = {signal.strsignal(number): number.name for number in signal.Signals}


@contextmanager
def explain_worker_errors() -> Iterator[None]:
    """Convert torch's errors on dead workers to one line each.

    Raises:
        FtkitError: A worker was killed or couldn't send a batch; gives the signal or the reason.
    """
    try:
        yield
    except (ConnectionError, EOFError) as error:
        raise _closed_socket(error) from error
    except OSError as error:
        explained = _start_failure(error)
        if explained is None:
            raise
        raise explained from error
    except RuntimeError as error:
        explained = _explanation(_killed(error) or f"{error} ")
        if explained is None:
            raise
        raise explained from error


def _killed(error: RuntimeError) -> str | None:
    """The killed worker and its signal, as text in torch's format, which torch omits if it finds the worker gone."""
    if not _ENDED.search(str(error)):
        return None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for worker in getattr(frame.f_locals.get("self"), "_workers", ()):
            if worker.exitcode is not None and worker.exitcode < 0:
                name = signal.strsignal(-worker.exitcode)
                return f"DataLoader worker (pid {worker.pid}) is killed by signal: {name}. "
    return None


def _closed_socket(error: Exception) -> Exception:
    """The reason for a closed socket, which the main process may find before the worker's exit is reported."""
    try:
        time.sleep(EXIT_DELAY)
    except RuntimeError as later:
        return _explanation(f"{later} ") or error
    reason = exit_reason(os.getpid()).value.decode(errors="replace")
    return _send_failure(reason) if reason else error


def _start_failure(error: OSError) -> FtkitError | None:
    """The error for workers that couldn't be started for lack of resources; None for other errors."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return _send_failure("Too many open files")
    if error.errno == errno.ENOSPC and error.filename is None and _free() < LEAST_SHARED:
        return _send_failure("No space left")
    if error.errno in (errno.EAGAIN, errno.ENOMEM) and error.filename is None:
        return FtkitError(f"a worker process can't be started: {error.strerror}", "give fewer --workers, or 0")
    return None


def _free() -> int:
    """Free bytes of shared memory; unlimited if the system has no such folder."""
    try:
        room = os.statvfs(SHARED)
    except OSError:
        return sys.maxsize
    return room.f_bavail * room.f_frsize


def _explanation(text: str) -> FtkitError | None:
    if found := _KILLED.search(text):
        number, name = found[1], _SIGNALS.get(found[2], found[2])
        ended = f"data loading worker {number} was killed by {name}"
        if name == "SIGBUS":
            return FtkitError(f"{ended}: {SHARED} is full", SHM_HINT)
        if name == "SIGKILL":
            return FtkitError(f"{ended}, probably because memory ran out", "give fewer --workers, or 0")
        return FtkitError(ended, f"{REMEDY} to see where it happens")
    if "Too many open files" in text:
        return _send_failure("Too many open files")
    if _ENDED.search(text):
        return _send_failure(exit_reason(os.getpid()).value.decode(errors="replace"))
    return None


def _send_failure(reason: str) -> FtkitError:
    """The error for a worker that couldn't send a batch."""
    if "Too many open files" in reason:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return FtkitError(
            f"the limit of open files, {limit}, is too low for the worker processes",
            f"raise the limit: ulimit -n {max(1024, 4 * limit)}; or {REMEDY}",
        )
    if "shared memory" in reason or "No space left" in reason:
        return FtkitError(f"a worker process had no space for a batch in {SHARED}: {reason}", SHM_HINT)
    if "AF_UNIX" in reason:
        return FtkitError(f"TMPDIR {tempfile.gettempdir()} is too long for the sockets of worker processes", REMEDY)
    return FtkitError(
        f"a data loading worker exited unexpectedly{': ' + reason if reason else ''}",
        f"{REMEDY} to see where it happens",
    )
