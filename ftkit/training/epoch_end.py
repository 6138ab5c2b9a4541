"""The end of an epoch, and of the run: validate, keep what is best, write everything down."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from ftkit.data.loading.unreadable_images import skip_unreadable
from ftkit.errors import FtkitError, plural
from ftkit.evaluation.collect import collect_outputs
from ftkit.files.json_text import replace_nonfinite
from ftkit.metrics.finite_outputs import NOT_FINITE, few_names, finite_rows
from ftkit.metrics.report import Evaluation, evaluate_outputs
from ftkit.metrics.selection import is_better
from ftkit.planning.run_plan import Plan
from ftkit.runs.checkpoint import Progress
from ftkit.runs.run_folder import RunFolder
from ftkit.training.callbacks.nan_guard import require_finite_weights
from ftkit.training.callbacks.saving import keep_model, make_card, save_epoch, whole_network
from ftkit.training.callbacks.trackers import track
from ftkit.training.callbacks.weight_drift import group_drift, write_weight_drift
from ftkit.training.events import EpochDone
from ftkit.training.session import Session
from ftkit.training.state import all_totals
from ftkit.training.stopping import stop_if_asked


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its folder, the records of its epochs, the best of them, and why it stopped early."""

    run: RunFolder
    records: list[dict[str, Any]]
    best: dict[str, Any]
    stopped_early: bool


def train_record(session: Session) -> dict[str, float]:
    """Mean loss and accuracy over the epoch's training images, as they were drawn, augmented and seen."""
    loss, correct, seen = all_totals(session)
    epoch, skipped = session.progress.epoch + 1, session.progress.skipped
    if not seen:
        raise FtkitError(f"every step of epoch {epoch} was left out: none had a finite loss", "lower --lr")
    record = {"train_loss": loss / seen, "train_accuracy": correct / seen}
    return {**record, "skipped_steps": skipped} if session.plan.config.on_nan == "skip" else record


def finish_epoch(
    session: Session, trained: dict[str, float], started: float, extra: dict[str, float] | None = None
) -> None:
    """Validate, record the epoch, and see to it that the weights are kept."""
    progress, plan = session.progress, session.plan
    seconds = time.perf_counter() - started
    require_finite_weights(session)
    logits, labels = validation_outputs(session)
    evaluation = evaluate_outputs(plan.task.outputs(logits, labels, plan.splits.classes), plan.metrics)
    note_unusable(session, logits)
    if trained:
        progress.epoch, progress.step, progress.skipped = progress.epoch + 1, 0, 0
    session.totals.zero_()
    is_best = note_value(session, evaluation)
    # By position, since a run that was stopped in its validation goes on without a step of this epoch.
    last = plan.learning_rates(progress.epoch * plan.batches.steps - 1) if trained else {}
    rates = {group: rate for group, rate in last.items() if rate}
    network = whole_network(session)
    record = {
        "epoch": progress.epoch,
        **trained,
        **(extra or {}),
        **val_metrics(evaluation),
        "lr": rates,
        "weight_drift": group_drift(session, network),
        "seconds": round(seconds, 3),
    }
    # Whoever hears of it finds what the file has: null for what isn't a finite number.
    record = replace_nonfinite(record)
    if session.is_main:
        session.run.append_record(record)
        track(session, record, evaluation)
    save_epoch(session, network, val_metrics(evaluation) if is_best else None)
    session.listener.epoch_done(EpochDone(record, is_best))


def validation_outputs(session: Session) -> tuple[Tensor, Tensor]:
    """Logits and labels of the whole validation split, in all processes."""
    with session.shards.whole() if session.shards is not None else nullcontext():
        return collect_outputs(
            session.feed.eval_model,
            session.feed.val_loader,
            session.accelerator,
            session.compute,
            lambda _: stop_if_asked(session),
            partial(skip_unreadable, session, "val"),
        )


def note_unusable(session: Session, logits: Tensor) -> None:
    """Tell of validation images whose outputs aren't finite: they count as wrong, and the epoch has no loss."""
    wrong = (~finite_rows(logits)).nonzero().flatten().tolist()
    if wrong:
        names = session.split("val").names
        which = f": {few_names(wrong, names)}" if len(names) == len(logits) else ""
        session.listener.note(f"{NOT_FINITE} for {len(wrong):,} of {plural(len(logits), 'validation image')}{which}")


def note_value(session: Session, evaluation: Evaluation) -> bool:
    """Whether the monitored metric is the best so far; where there is patience, whether it has ended."""
    progress, monitor = session.progress, session.plan.config.monitor
    value = evaluation.values[monitor]
    # make_plan refuses to monitor what the data doesn't have; None is what outputs that aren't finite don't have.
    value = math.nan if value is None else value
    if session.plan.config.patience is not None:
        lose_patience(session.plan, progress, value)
    better = is_better(value, progress.best, session.plan.metrics[monitor].lower_is_better)
    if better:
        progress.best, progress.best_epoch = value, progress.epoch
    return better


def lose_patience(plan: Plan, progress: Progress, value: float) -> None:
    """Count the epochs without a better value for early stopping, and say in `progress` whether it stops the run.

    Each epoch is compared with the ones since patience began to count, not with those before: a thaw often costs
    accuracy at first, and the epochs that gain it back must not count as wasted. The probe is no epoch.
    """
    config = plan.config
    assert config.patience is not None, "the caller looks"
    if progress.epoch <= plan.patience_start:
        progress.waited, progress.patience_best = 0, None
    elif is_better(value, progress.patience_best, plan.metrics[config.monitor].lower_is_better):
        progress.waited, progress.patience_best = 0, value
    else:
        progress.waited += 1
    progress.stopped = progress.waited >= config.patience and progress.epoch < config.epochs


def val_metrics(evaluation: Evaluation) -> dict[str, float | None]:
    """What an epoch's record and a model's card say of the validation split."""
    return {f"val_{name}": value for name, value in evaluation.values.items()}


def finish_run(session: Session) -> Outcome:
    """Keep the last weights beside the best."""
    run, progress = session.run, session.progress
    records = run.records()
    by_epoch = {r["epoch"]: r for r in records}
    network = whole_network(session)
    if session.is_main:
        last = {k: v for k, v in records[-1].items() if k.startswith("val_")}
        write_weight_drift(session, network)
        keep_model(session, network, run.last, make_card(session.plan, last, progress.epoch))
    session.accelerator.wait_for_everyone()
    return Outcome(run, records, by_epoch[progress.best_epoch], progress.stopped)
