"""Files put to a model by one process or by several, each with a device of its own: a GPU, where there are any."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ftkit.errors import FtkitError
from ftkit.inference.predictor import Prediction, Predictor, require_bounds
from ftkit.inference.streaming import grouped
from ftkit.models.bundle import Loaded, load_bundle
from ftkit.runs.model_card import ModelCard, read_card

BATCHES = 16
"""Batches that a process is given at once; between two lots its device waits for the first images."""
AHEAD = 2
"""Lots that are out for each process."""


@dataclass(frozen=True)
class Task:
    """What is to be done with files.

    Attributes:
        device, precision: As `load_bundle` takes them.
    """

    bundle: Path
    device: str
    precision: str
    top_k: int
    batch_size: int


def predict_files(
    task: Task, paths: Iterable[Path], tell: Callable[[str], None], processes: int = 1
) -> tuple[ModelCard, Iterator[Prediction]]:
    """The model's card, and what it says of files, in their order, as it comes.

    Args:
        tell: Called with a line on the model, for people.

    Raises:
        FtkitError: The model can't be loaded or used, or later, a process was killed.
    """
    if processes == 1:
        predictor = Predictor(_loaded(task, tell))
        return predictor.card, predictor.iter_predict(paths, task.top_k, task.batch_size)
    card = read_card(task.bundle)
    require_bounds(card.classes, task.top_k, task.batch_size)
    if card.backbone.code:
        _loaded(replace(task, device="cpu", precision="fp32"), tell)
    return card, _by_several(task, paths, processes)


def _loaded(task: Task, tell: Callable[[str], None]) -> Loaded:
    loaded = load_bundle(task.bundle, task.device, task.precision)
    for line in loaded.notes:
        tell(line)
    return loaded


def _by_several(task: Task, paths: Iterable[Path], processes: int) -> Iterator[Prediction]:
    # Not by fork: CUDA, and threads that torch may have started, don't live through it.
    context = multiprocessing.get_context("spawn")
    numbers, stopped = context.SimpleQueue(), context.Event()
    for number in range(processes):
        numbers.put(number)
    out: deque[Future[list[Prediction]]] = deque()
    threads = max(1, (os.cpu_count() or 1) // processes)
    with ProcessPoolExecutor(processes, context, _open, (task, threads, numbers, stopped)) as pool:
        try:
            for lot in grouped(paths, BATCHES * task.batch_size):
                out.append(pool.submit(_answers, lot))
                if len(out) > AHEAD * processes:
                    yield from out.popleft().result()
            while out:
                yield from out.popleft().result()
        except BrokenProcessPool:
            raise FtkitError(
                "a process that predicts was killed", "give a lower --num-processes, if memory is short"
            ) from None
        finally:
            stopped.set()
            for future in out:
                future.cancel()


_MINE: dict[str, Any] = {}
"""Of a process that predicts: its predictor, or why it has none, and what tells it to stop."""


def _open(task: Task, threads: int, numbers: Any, stopped: Any) -> None:
    # Signals to the process group reach all processes; the main one stops the others.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # As the main process does.
    torch.set_num_threads(threads)
    number = numbers.get()
    try:
        if torch.cuda.is_available() and task.device in ("auto", "cuda"):
            torch.cuda.set_device(number % torch.cuda.device_count())
        _MINE["predictor"] = Predictor(load_bundle(task.bundle, task.device, task.precision))
    except FtkitError as error:
        _MINE["error"] = error
    _MINE.update(task=task, stopped=stopped)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a child process"
    parent.join()
    os._exit(1)


def _answers(paths: Sequence[Path]) -> list[Prediction]:
    if "error" in _MINE:
        raise _MINE["error"]
    task, found = _MINE["task"], []
    for prediction in _MINE["predictor"].iter_predict(paths, task.top_k, task.batch_size):
        found.append(prediction)
        if _MINE["stopped"].is_set():
            break
    return found
