"""Prediction of files by one process, or by several with a GPU each."""

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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ftkit.errors import FtkitError
from ftkit.inference.predictions import Prediction
from ftkit.inference.predictor import Predictor, check_bounds
from ftkit.inference.streaming import grouped
from ftkit.inference.uncertain_predictions import Uncertainty
from ftkit.models.bundle import Loaded, load_bundle
from ftkit.runs.model_card import ModelCard, read_card
from ftkit.transforms.view_choices import Tta

BATCHES = 16
"""Batches in a chunk, which is one task of a process; at its start the device waits for images."""
AHEAD = 2
"""Chunks that are submitted ahead for each process."""


@dataclass(frozen=True)
class PredictionJob:
    """How to predict files.

    Attributes:
        device, precision: See `load_bundle`.
        tta, uncertainty: See `Predictor.predict`.
    """

    bundle: Path
    device: str
    precision: str
    top_k: int
    batch_size: int
    tta: Tta = "none"
    uncertainty: Uncertainty = field(default_factory=Uncertainty)


def predict_files(
    job: PredictionJob, paths: Iterable[Path], tell: Callable[[str], None], processes: int = 1
) -> tuple[ModelCard, Iterator[Prediction]]:
    """The model's card, and its predictions of files, in order, as they are computed.

    Args:
        tell: Called with lines to report on the model.

    Raises:
        FtkitError: The model can't be loaded or used; later also where a process was killed.
    """
    if processes == 1:
        predictor = load_predictor(job, tell)
        return predictor.card, predictor.iter_predict(paths, job.top_k, job.batch_size, job.tta, job.uncertainty)
    card = read_card(job.bundle)
    check_bounds(card.classes, job.top_k, job.batch_size)
    if card.backbone.code or card.members:
        _loaded(replace(job, device="cpu", precision="fp32"), tell)
    return card, _predict_in_processes(job, paths, processes)


def load_predictor(job: PredictionJob, tell: Callable[[str], None]) -> Predictor:
    """The model of a job; `tell` is called with lines to report on it."""
    return Predictor(_loaded(job, tell))


def _loaded(job: PredictionJob, tell: Callable[[str], None]) -> Loaded:
    loaded = load_bundle(job.bundle, job.device, job.precision)
    for line in loaded.notes:
        tell(line)
    return loaded


def _predict_in_processes(job: PredictionJob, paths: Iterable[Path], processes: int) -> Iterator[Prediction]:
    # Not by fork, which breaks CUDA and threads that torch may have started.
    context = multiprocessing.get_context("spawn")
    numbers, stopped = context.SimpleQueue(), context.Event()
    for number in range(processes):
        numbers.put(number)
    out: deque[Future[list[Prediction]]] = deque()
    threads = max(1, (os.cpu_count() or 1) // processes)
    with ProcessPoolExecutor(processes, context, _start_worker, (job, threads, numbers, stopped)) as pool:
        try:
            for chunk in grouped(paths, BATCHES * job.batch_size):
                out.append(pool.submit(_predict_chunk, chunk))
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


_WORKER: dict[str, Any] = {}
"""State of a worker process: its predictor or the error of loading it, the job, and the event that stops it."""


def _start_worker(job: PredictionJob, threads: int, numbers: Any, stopped: Any) -> None:
    # Signals to the process group reach all processes; the main one stops the others.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # As in the main process.
    torch.set_num_threads(threads)
    number = numbers.get()
    try:
        if torch.cuda.is_available() and job.device in ("auto", "cuda"):
            torch.cuda.set_device(number % torch.cuda.device_count())
        _WORKER["predictor"] = Predictor(load_bundle(job.bundle, job.device, job.precision))
    except FtkitError as error:
        _WORKER["error"] = error
    _WORKER.update(job=job, stopped=stopped)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a child process"
    parent.join()
    os._exit(1)


def _predict_chunk(paths: Sequence[Path]) -> list[Prediction]:
    if "error" in _WORKER:
        raise _WORKER["error"]
    job, found = _WORKER["job"], []
    for prediction in _WORKER["predictor"].iter_predict(paths, job.top_k, job.batch_size, job.tta, job.uncertainty):
        found.append(prediction)
        if _WORKER["stopped"].is_set():
            break
    return found
