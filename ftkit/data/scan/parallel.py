"""Scanning files in several processes.

Decoding a small image is mostly Python code, which threads run one at a time: on two cores, two processes read 1.9
times as many 32-pixel images as two threads.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

from ftkit.data.loading.workers import START
from ftkit.distributed.cores import available_cores
from ftkit.errors import FtkitError

R = TypeVar("R")
Scan = Callable[[str], R]

FEW = 256
"""Fewer files than this are read in threads, which start faster."""

CHUNK = 32
"""Files that a process reads at once."""

AHEAD = 2
"""Chunks sent to each process, so that it never waits."""


def scan_in_parallel(scan: Scan[R], files: Iterator[tuple[int, str]], count: int) -> Iterator[tuple[int, R]]:
    """Call `scan` with each file, in all cores.

    Args:
        files: Row and path of each file.
        count: Number of files.

    Returns:
        Row and result of each file, in any order.

    Raises:
        FtkitError: A process was killed.
    """
    cores = available_cores()
    if count >= FEW and START == "fork" and cores > 1:
        return _in_processes(scan, files, min(cores, count // CHUNK))
    return _in_threads(scan, files, 2 * cores)


def _in_threads(scan: Scan[R], files: Iterator[tuple[int, str]], threads: int) -> Iterator[tuple[int, R]]:
    pool = ThreadPoolExecutor(min(8, threads))
    try:
        while some := list(islice(files, FEW)):
            yield from zip((row for row, _ in some), pool.map(scan, [path for _, path in some]), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _in_processes(scan: Scan[R], files: Iterator[tuple[int, str]], count: int) -> Iterator[tuple[int, R]]:
    context = get_context("fork")
    pairs = [context.Pipe() for _ in range(count)]
    workers = [context.Process(target=_serve, args=(scan, n, pairs), daemon=True) for n in range(count)]
    for worker in workers:
        worker.start()
    busy = {}
    try:
        for (ours, theirs), worker in zip(pairs, workers, strict=True):
            theirs.close()
            busy[ours] = worker
            for _ in range(AHEAD):
                ours.send(list(islice(files, CHUNK)))
        left = dict.fromkeys(busy, AHEAD)
        while left:
            for connection in wait(list(left)):
                assert isinstance(connection, Connection), "only connections are waited for"
                yield from _received(connection, busy[connection])
                left[connection] -= 1
                if some := list(islice(files, CHUNK)):
                    connection.send(some)
                    left[connection] += 1
                elif not left[connection]:
                    del left[connection]
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
        for ours, _ in pairs:
            ours.close()


def _received(connection: Connection, worker: BaseProcess) -> Sequence[tuple[int, R]]:
    try:
        found: Sequence[tuple[int, R]] | Exception = connection.recv()
    except (EOFError, OSError):
        worker.join()
        raise FtkitError(
            f"a process that scanned images ended with exit code {worker.exitcode}",
            "if memory ran out, free some; what was scanned is kept",
        ) from None
    if isinstance(found, Exception):
        raise found
    return found


def _serve(scan: Scan[R], number: int, pairs: Sequence[tuple[Connection, Connection]]) -> None:
    """Scan what the main process sends, until it ends."""
    # It alone handles signals of the terminal, and a worker ends with it: an inherited end would keep the pipe open.
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for one in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(one, signal.SIG_IGN)
    for at, (ours, theirs) in enumerate(pairs):
        ours.close()
        if at != number:
            theirs.close()
    connection = pairs[number][1]
    with suppress(EOFError, OSError):
        while True:
            files = connection.recv()
            try:
                found: object = [(row, scan(path)) for row, path in files]
            except Exception as error:
                found = error
            connection.send(found)
