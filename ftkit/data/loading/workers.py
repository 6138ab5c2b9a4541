"""Worker processes that read images: how many, whether the machine lets them work, and why they ended if they did.

A batch goes from a worker to the main process in shared memory, its descriptor through a socket in the temporary
folder. Where one of these fails, the batch is lost, and the main process would wait for it for ever. So all three are
looked at before, and a worker that can't send a batch ends, and leaves the reason where the main process finds it.
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
from typing import Any, Literal

from ftkit.errors import FtkitError, RequestError, one_line

START = "fork" if sys.platform == "linux" else None
"""How workers start: Python's own default there until 3.13. Those of its later one, a fork server, live on when the run
is killed, and take seconds to start."""
PREFETCH = 4
"""Batches that a worker is ahead."""
SHARED = Path("/dev/shm")
SOCKET_NAME = len("/pymp-12345678/listener-12345678")
"""Characters that Python's name of a socket has below the temporary folder."""
LONGEST_SOCKET = 107 if sys.platform == "linux" else 103
"""Characters of a socket's path, as the system has it."""
FILES, FILES_EACH = 60, 24
"""Files that a process has open for a loader, and more for each worker: pipes, sockets, batches on their way."""
LEAST_SHARED = 2**18
"""Bytes of shared memory that locks and queues take, batches aside."""
LATE = 0.5
"""Seconds until the system has told of a worker that ended."""
WORDS = 1000
"""Bytes of a worker's reason."""

SHM_HINT = "give fewer --workers, or 0; in a container, more shared memory: docker run --shm-size 8g"
REMEDY = "give --workers 0"


def resolve_workers(workers: int | Literal["auto"], images: int, world: int = 1) -> int:
    """Worker processes for a loader: one less than the cores that a process has, none for tiny splits.

    Starting a worker costs about as much as reading a few hundred images.
    """
    if workers != "auto":
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return 0 if images < 64 else max(1, min(8, cores // world - 1))


def choose_workers(
    asked: int | Literal["auto"], images: int, world: int, batch_bytes: int, tell: Callable[[str], None]
) -> int:
    """As many worker processes as were asked for; of `auto`, as many as this machine has room for.

    Args:
        batch_bytes: Of one batch of images.
        tell: Called with a line where that is fewer than there would be.

    Raises:
        RequestError: It hasn't room for those that were asked for; names what lacks, and how much.
    """
    wanted = workers = resolve_workers(asked, images, world)
    lacks: RequestError | None = None
    while workers and (found := _lacking(workers, world, batch_bytes)) is not None:
        if asked != "auto":
            raise found
        lacks, workers = found, workers - 1
    if lacks is not None:
        place = f"{workers} of {wanted} worker processes read" if workers else "the training process itself reads"
        tell(f"{place} the images: {lacks.message} ({lacks.hint})")
    return workers


def _lacking(workers: int, world: int, batch_bytes: int) -> RequestError | None:
    """What the workers of the processes on this machine would want and not find."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    needed = local * max(LEAST_SHARED, (PREFETCH * workers + 1) * batch_bytes)
    if (free := _free()) < needed:
        return RequestError(
            f"{SHARED} (shared memory, shm) has {_megabytes(free)} MB free, and {_of(workers)} with batches of "
            f"{_megabytes(batch_bytes)} MB {'want' if workers > 1 else 'wants'} {_megabytes(needed)} MB",
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
            f"a process may have {limit} files open, and {_of(workers)} {'want' if workers > 1 else 'wants'} {files}",
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
    """Signals that stop a run reach its whole process group, but are the main process's business alone.

    It still needs its last batches for a whole checkpoint. Only when it leaves itself, which `exiting` tells,
    does SIGTERM end a worker: Python sends it then, and would wait for ever for one that ignored it.
    """
    signal.set_wakeup_fd(-1)  # It is the main process's, which would take a worker's signals for its own.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if exiting.value else None)

    def end(error: BaseException, _: Any) -> None:
        """In place of a traceback, after which the batch would be missing and the worker go on."""
        reason.value = one_line(f"{type(error).__name__}: {error}").encode()[: WORDS - 1]
        os._exit(1)

    queues.Queue._on_queue_feeder_error = staticmethod(end)  # type: ignore[attr-defined] # not in the stubs


@cache
def process_exiting(process: int) -> Any:
    """Whether this process, by its number, is about to end; shared with its workers alone."""
    shared = RawValue("b", 0)
    # Not by atexit, which the processes of multiprocessing pass over: theirs is called before workers are ended.
    util.Finalize(None, setattr, args=(shared, "value", 1), exitpriority=100)
    return shared


@cache
def exit_reason(process: int) -> Any:
    """Why a worker of this process ended by itself; shared with its workers alone."""
    return RawArray("c", WORDS)


_KILLED = re.compile(r"DataLoader worker \(pid (\d+)\) is killed by signal: (.+?)\. ")
_ENDED = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) exited unexpectedly|Pin memory thread exited")
_SIGNALS = {signal.strsignal(number): number.name for number in signal.Signals}


@contextmanager
def explain_worker_errors() -> Iterator[None]:
    """Turn torch's errors on workers that ended into one line each.

    Raises:
        FtkitError: A worker was killed, or couldn't send a batch; says by what, or why.
    """
    try:
        yield
    except (ConnectionError, EOFError) as error:
        raise _explained_late(error) from error
    except OSError as error:
        told = _unstarted(error)
        if told is None:
            raise
        raise told from error
    except RuntimeError as error:
        told = _explanation(_killed(error) or f"{error} ")
        if told is None:
            raise
        raise told from error


def _killed(error: RuntimeError) -> str | None:
    """Which worker was killed and by what, in torch's words; it doesn't say so where it finds the worker gone first."""
    if not _ENDED.search(str(error)):
        return None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for worker in getattr(frame.f_locals.get("self"), "_workers", ()):
            if worker.exitcode is not None and worker.exitcode < 0:
                name = signal.strsignal(-worker.exitcode)
                return f"DataLoader worker (pid {worker.pid}) is killed by signal: {name}. "
    return None


def _explained_late(error: Exception) -> Exception:
    """The main process can find a worker's socket closed before the system tells it of the worker's end."""
    try:
        time.sleep(LATE)
    except RuntimeError as later:
        return _explanation(f"{later} ") or error
    reason = exit_reason(os.getpid()).value.decode(errors="replace")
    return _unsent(reason) if reason else error


def _unstarted(error: OSError) -> FtkitError | None:
    """What of the machine kept workers from being started; None where the error is of something else."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return _unsent("Too many open files")
    if error.errno == errno.ENOSPC and error.filename is None and _free() < LEAST_SHARED:
        return _unsent("No space left")
    if error.errno in (errno.EAGAIN, errno.ENOMEM) and error.filename is None:
        return FtkitError(f"a worker process can't be started: {error.strerror}", "give fewer --workers, or 0")
    return None


def _free() -> int:
    """Bytes that are free in shared memory; as many as one likes where the system has no such folder."""
    try:
        room = os.statvfs(SHARED)
    except OSError:
        return sys.maxsize
    return room.f_bavail * room.f_frsize


def _explanation(text: str) -> FtkitError | None:
    if found := _KILLED.search(text):
        number, name = found[1], _SIGNALS.get(found[2], found[2])
        ended = f"worker process {number}, which reads images, was killed by {name}"
        if name == "SIGBUS":
            return FtkitError(f"{ended}: {SHARED} is full", SHM_HINT)
        if name == "SIGKILL":
            return FtkitError(f"{ended}, as the system does where memory is short", "give fewer --workers, or 0")
        return FtkitError(ended, f"{REMEDY} to see where it happens")
    if "Too many open files" in text:
        return _unsent("Too many open files")
    if _ENDED.search(text):
        return _unsent(exit_reason(os.getpid()).value.decode(errors="replace"))
    return None


def _unsent(reason: str) -> FtkitError:
    """A worker couldn't send a batch."""
    if "Too many open files" in reason:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return FtkitError(
            f"a process may have {limit} files open, which is too few for the worker processes",
            f"raise the limit: ulimit -n {max(1024, 4 * limit)}; or {REMEDY}",
        )
    if "shared memory" in reason or "No space left" in reason:
        return FtkitError(f"a worker process found no room for a batch in {SHARED}: {reason}", SHM_HINT)
    if "AF_UNIX" in reason:
        return FtkitError(f"TMPDIR {tempfile.gettempdir()} is too long for the sockets of worker processes", REMEDY)
    return FtkitError(
        f"a worker process, which reads images, ended by itself{': ' + reason if reason else ''}",
        f"{REMEDY} to see where it happens",
    )
