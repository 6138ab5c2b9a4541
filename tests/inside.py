"""Faults, limits and counts inside ftkit that no public interface can set: the one place where tests reach for them.

Each function names what it changes; a module that moves breaks this file alone. Changes end with the test.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from torch import Tensor

from ftkit.activation_cache import policy
from ftkit.activation_cache.cutting.cut import NoCutError
from ftkit.activation_cache.cutting.finder import CutFinder
from ftkit.activation_cache.table import Table
from ftkit.activation_cache.table_keys import TableKeys
from ftkit.api import ImageFiles, Preprocessing, Split
from ftkit.data.loading.loader import Samples, evaluation_loader
from ftkit.data.loading.order import TrainingOrder
from ftkit.data.loading.workers import explain_worker_errors
from ftkit.data.scan import image_scan, scan_cache, scan_rows
from ftkit.errors import RunInterrupted
from ftkit.planning import plan_checks
from ftkit.runs.run_folder import RunFolder
from ftkit.training import checkpoint_state, run_start, train, validation
from ftkit.training.callbacks import trackers
from ftkit.training.callbacks.checkpointing import Checkpointing
from ftkit.training.preparation import open_run
from ftkit.training.preparation.gradient_check import GradientReach
from ftkit.training.trainer import Trainer
from ftkit.transforms.pipeline import evaluation


def nothing(*_: Any) -> None:
    pass


def watch_cached_rows(
    patch: pytest.MonkeyPatch, before: Callable[[int], object] = nothing, after: Callable[[int], object] = nothing
) -> None:
    """Calls functions with the number of rows, before and after each write to a table of activations."""
    put = Table.put

    def watched(table: Table, chunk: int, places: Any, values: Tensor) -> None:
        before(len(places))
        put(table, chunk, places, values)
        after(len(places))

    patch.setattr(Table, "put", watched)


def refuse_every_cut(patch: pytest.MonkeyPatch, reason: str) -> None:
    """No network can be cut."""
    patch.setattr(CutFinder, "cuts", lambda _, phases: [reason for _ in phases])


def replay_every_network(patch: pytest.MonkeyPatch) -> None:
    """No network can be traced."""
    patch.setattr(CutFinder, "_trace", NoCutError("it can't be traced"))


def identify_all_networks_alike(patch: pytest.MonkeyPatch) -> None:
    """Keys of tables miss a change of the network."""
    patch.setattr(TableKeys, "_identity", lambda keys, cut: "the same")


def find_all_activations_too_large(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(policy, "LARGEST", 0)


def forbid_image_scans(patch: pytest.MonkeyPatch) -> None:
    """An image that is scanned again fails the test."""
    patch.setattr(image_scan, "scan_file", lambda file: pytest.fail(f"{file} was read again"))


def limit_scan_sample(patch: pytest.MonkeyPatch, images: int) -> None:
    patch.setattr(scan_rows, "SAMPLE", images)


def limit_plain_list(patch: pytest.MonkeyPatch, images: int) -> None:
    """Above this number of images, a run's list of them is compressed."""
    patch.setattr(open_run, "MOST_LINES", images)


def limit_scan_cache(patch: pytest.MonkeyPatch, images: int) -> None:
    patch.setattr(scan_cache, "MOST", images)


def pretend_installed(patch: pytest.MonkeyPatch, installed: Callable[[str], bool]) -> None:
    """Which packages of trackers the plan finds installed."""
    patch.setattr(plan_checks, "is_installed", installed)


def start_epochs_over(patch: pytest.MonkeyPatch) -> None:
    """A resumed run starts its epoch at the first step, with the order of the first epoch."""

    def start_over(order: TrainingOrder, epoch: int, step: int = 0) -> None:
        order.epoch, order.first_step = 0, 0

    patch.setattr(TrainingOrder, "start", start_over)


def watch_checkpoints(patch: pytest.MonkeyPatch, watch: Callable[[Mapping[str, Tensor]], object]) -> None:
    """Calls a function with the network's state instead of writing a checkpoint."""
    patch.setattr(Checkpointing, "write", lambda c: watch(c.trainer.session.network.state_dict()))


def write_versions(patch: pytest.MonkeyPatch, versions: Mapping[str, str]) -> None:
    """The versions that a checkpoint records; those that a resumed run compares them with stay the true ones."""
    patch.setattr(checkpoint_state, "versions", lambda plan: versions)
    assert vars(run_start)["versions"] is not vars(checkpoint_state)["versions"]


def skip_gradient_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(train, "require_gradients", lambda session: GradientReach())


def end_before_sent_epoch_is_recorded(patch: pytest.MonkeyPatch, epoch: int) -> None:
    """The process ends after an epoch was sent to the trackers and before that is recorded."""
    record = trackers._record_sent

    def ended(session: Any, sent: trackers.Sent) -> None:
        if sent.epoch == epoch:
            raise SystemExit
        record(session, sent)

    patch.setattr(trackers, "_record_sent", ended)


def use_tracker(patch: pytest.MonkeyPatch, name: str, tracker: Any) -> None:
    """A tracker object in place of one that isn't installed."""
    pretend_installed(patch, lambda package: True)
    patch.setitem(trackers._MAKE, name, lambda session, sent: tracker)
    patch.setitem(trackers._CONFUSION, name, nothing)
    patch.setattr(trackers, "_send_config", nothing)


def interrupt_epoch(patch: pytest.MonkeyPatch, number: int) -> None:
    """The training epoch of this number, counted over all runs of the process from 1, is interrupted."""
    train_epoch, epochs = Trainer.train_epoch, iter(range(1, 10**6))

    def interrupted(trainer: Trainer, active: Any) -> None:
        if next(epochs) == number:
            raise RunInterrupted("stopped after epoch 1", "ftkit train --resume x", 2)
        train_epoch(trainer, active)

    patch.setattr(Trainer, "train_epoch", interrupted)


def evaluate_epochs_as(patch: pytest.MonkeyPatch, metric: str, values: Iterable[float]) -> None:
    """The values of a metric in the validations of a run, one after the other."""
    evaluate, given = vars(validation)["evaluate_outputs"], iter(values)

    def evaluated(*args: Any) -> Any:
        found = evaluate(*args)
        return replace(found, values={**found.values, metric: next(given)})

    patch.setattr(validation, "evaluate_outputs", evaluated)


def stop_in_evaluation(patch: pytest.MonkeyPatch, weights: str, number: int) -> None:
    """The process gets a signal as weights of this name are evaluated for the time of this number, from 1."""
    evaluate, times = vars(validation)["_evaluated"], iter(range(1, 10**6))

    def evaluated(session: Any, feed: Any, shards: Any, name: str, *args: Any) -> Any:
        if name == weights and next(times) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(session, feed, shards, name, *args)

    patch.setattr(validation, "_evaluated", evaluated)


def run_lock(folder: Path) -> Any:
    """The lock that a process holds while it trains a run, as a context manager."""
    return RunFolder(folder).locked()


def evaluation_batches(paths: Sequence[Path], workers: int) -> Iterator[Any]:
    """Batches of two images from worker processes, whose errors are explained as in a command."""
    split = Split([str(path) for path in paths], [0] * len(paths), ImageFiles(Path(), [str(path) for path in paths]))
    with explain_worker_errors():
        yield from evaluation_loader(Samples(split, evaluation(Preprocessing(size=24))), 2, workers)


def failing_report(patch: pytest.MonkeyPatch) -> None:
    """The page of a report can't be made."""

    def fail(*args: object) -> NoReturn:
        raise ValueError("broken")

    patch.setattr("ftkit.reports.run_report.page", fail)


def without_reports(patch: pytest.MonkeyPatch) -> None:
    """No run stores features or writes a report at its end: that takes as long as the training of a few images."""
    patch.setattr("ftkit.reports.after_training.complete_run", lambda *args: None)
