"""The training loop, to be read from top to bottom.

Phases, in which the same groups train; epochs; steps. What a step does depends only on where it stands:
order, augmentation, dropout and learning rates are functions of the position, so a run that starts again
from a checkpoint ends with the very weights of one that never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from ftkit.engine.bundle import save_bundle
from ftkit.engine.checkpoint import load_checkpoint, save_checkpoint
from ftkit.engine.data import Batch, checked
from ftkit.engine.evaluate import collect
from ftkit.engine.events import EpochDone, Listener, Start, StepDone
from ftkit.engine.groups import Modes, set_trainable
from ftkit.engine.interrupt import StopFlag, stop_flag
from ftkit.engine.metrics import Scores, score
from ftkit.engine.model import split_outputs
from ftkit.engine.optim import set_learning_rates
from ftkit.engine.seeds import derive
from ftkit.engine.session import Session, capture, make_card, open_session, restore, totals
from ftkit.errors import FtkitError, RequestError, RunInterrupted
from ftkit.planning import Plan
from ftkit.run_folder import RunFolder
from ftkit.spec.schedule import Phase

LISTEN_EVERY = 0.2
"""Seconds between looks at the totals on a GPU, each of which waits for it."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its folder, the records of its epochs, the best of them, and why it stopped early."""

    run: RunFolder
    records: list[dict[str, Any]]
    best: dict[str, Any]
    stopped_early: bool


def train(plan: Plan, run: RunFolder, listener: Listener | None = None, resume: bool = False) -> Outcome:
    """Execute a plan in a run folder.

    Args:
        resume: Go on from the newest whole checkpoint in the folder.

    Raises:
        RequestError: The checkpoint doesn't fit the plan, or nothing is left to do.
        FtkitError: The run failed; checkpoints written until then are kept.
        RunInterrupted: A signal came; a checkpoint of the moment is on disk.
    """
    with stop_flag() as flag:
        session = open_session(plan, run, listener or Listener())
        begin(session, resume)
        for phase in plan.schedule.phases:
            if phase.stop > session.progress.epoch and not session.progress.stopped:
                train_phase(session, phase, flag)
        return finish(session)


def begin(session: Session, resume: bool) -> None:
    """Go to where the run left off, or judge the first weights where they may already be good."""
    if resume:
        state, damaged = load_checkpoint(session.run.checkpoints)
        for line in damaged:
            session.listener.note(line)
        restore(session, state)
        session.run.rewind_records(session.progress.epoch)
    report = session.built.report
    session.listener.started(
        Start(
            plan=session.plan,
            run=session.run.path,
            device=str(session.device),
            precision={"no": "fp32"}.get(session.accelerator.mixed_precision, session.accelerator.mixed_precision),
            workers=session.workers,
            loaded=report.summary() if report else "",
            resumed=session.progress.epoch if resume else None,
        )
    )
    if not resume and (session.plan.config.keep_head or session.plan.config.epochs == 0):
        conclude_epoch(session, {}, time.perf_counter())


def train_phase(session: Session, phase: Phase, flag: StopFlag) -> None:
    """Train the epochs of one phase that aren't done yet."""
    # Wrapped anew for each phase: a wrapper for several processes made for other trainable parameters
    # would let the processes drift apart.
    accelerator = session.accelerator
    network = accelerator.unwrap_model(session.model, keep_fp32_wrapper=False)
    modes = set_trainable(network, session.plan.schedule.groups, phase.trainable, session.plan.config.train_bn)
    require_batches(session.plan, modes)
    session.model = accelerator.prepare_model(network)
    session.listener.phase_started(phase, sum(p.numel() for p in network.parameters() if p.requires_grad))
    while session.progress.epoch < phase.stop and not session.progress.stopped:
        modes.apply()
        started = time.perf_counter()
        train_epoch(session, flag)
        conclude_epoch(session, train_record(session), started)
        stop_if_asked(session, flag)


def require_batches(plan: Plan, modes: Modes) -> None:
    """Refuse batches of one image where BatchNorm learns its statistics from them.

    Raises:
        RequestError: Names the settings that make them so small.
    """
    if plan.batches.smallest < 2 and any(isinstance(m, _BatchNorm) for m in modes.training):
        raise RequestError(
            f"batch_size {plan.config.batch_size} and accumulate {plan.config.accumulate} make batches of one of the "
            f"{plan.batches.images} training images, which BatchNorm can't learn from",
            "raise --batch-size, or lower --accumulate",
        )


def train_epoch(session: Session, flag: StopFlag) -> None:
    """Take the steps of one epoch, from the one where the run stands."""
    plan, progress = session.plan, session.progress
    session.order.start(progress.epoch, progress.step)
    batches = iter(session.train_loader)
    clock = _Clock(session)
    for step in range(progress.step, plan.batches.steps):
        rates = plan.learning_rates(progress.epoch * plan.batches.steps + step)
        set_learning_rates(session.optimizer, rates)
        train_step(session, batches, step)
        progress.step = step + 1
        clock.tell(rates)
        if progress.step < plan.batches.steps:
            if plan.config.checkpoint.every_steps and progress.step % plan.config.checkpoint.every_steps == 0:
                write_checkpoint(session)
            stop_if_asked(session, flag)


def train_step(session: Session, batches: Iterator[Any], step: int) -> None:
    """One optimizer step: the gradient of the mean loss over all images of the step, on all processes."""
    accelerator, plan = session.accelerator, session.plan
    images = len(plan.batches.step(step))
    for part in range(plan.batches.accumulate):
        batch = checked(next(batches)).to(session.device)
        seed_step(session, step * plan.batches.accumulate + part)
        last = part == plan.batches.accumulate - 1
        with nullcontext() if last else accelerator.no_sync(session.model):
            loss = batch_loss(session, batch)
            # Wrappers average gradients over processes; the mean wanted is over images.
            accelerator.backward(loss * (accelerator.num_processes / images))
    session.optimizer.step()
    session.optimizer.zero_grad(set_to_none=True)


def batch_loss(session: Session, batch: Batch) -> Tensor:
    """Sum of the images' losses, auxiliary classifiers included; counts what the classifier got right."""
    logits, auxiliary = split_outputs(session.model(batch.images))
    loss = cross_entropy(logits, batch.labels, reduction="sum")
    with torch.no_grad():
        correct = (logits.argmax(1) == batch.labels).sum()
        session.totals += torch.stack([loss.double(), correct.double(), loss.new_tensor(len(batch)).double()])
    for other in auxiliary:
        loss = loss + session.plan.backbone.aux_weight * cross_entropy(other, batch.labels, reduction="sum")
    return loss


def seed_step(session: Session, batch: int) -> None:
    """Seed what the network itself draws, such as dropout, by position."""
    epoch, rank = session.progress.epoch, session.accelerator.process_index
    torch.manual_seed(derive(session.plan.config.seed, "step", epoch, batch, rank))


def train_record(session: Session) -> dict[str, float]:
    """Mean loss and accuracy over the epoch's training images, as they were augmented and seen."""
    loss, correct, seen = session.accelerator.reduce(session.totals, "sum").tolist()
    _require_finite(session, loss)
    return {"train_loss": loss / seen, "train_accuracy": correct / seen}


def conclude_epoch(session: Session, trained: dict[str, float], started: float) -> None:
    """Validate, keep the weights if they are the best so far, record the epoch, write a checkpoint."""
    progress, plan = session.progress, session.plan
    seconds = time.perf_counter() - started
    scores = score(*collect(session.network, session.val_loader, session.accelerator), plan.splits.classes)
    if trained:
        progress.epoch, progress.step = progress.epoch + 1, 0
    session.totals.zero_()
    is_best = note_value(session, scores)
    rates = {g["name"]: g["lr"] for g in session.optimizer.param_groups if trained and g["lr"]}
    record = {"epoch": progress.epoch, **trained, **figures(scores), "lr": rates, "seconds": round(seconds, 3)}
    if session.accelerator.is_main_process:
        session.run.append_record(record)
        if is_best:
            save_bundle(session.run.model, session.network, make_card(plan, figures(scores), progress.epoch))
    write_checkpoint(session)
    session.listener.epoch_done(EpochDone(record, is_best))


def note_value(session: Session, scores: Scores) -> bool:
    """Whether the monitored figure is the best so far; counts the epochs that weren't, for early stopping."""
    progress, config = session.progress, session.plan.config
    value = getattr(scores, config.monitor)
    better = progress.best is None or (value < progress.best if config.monitor == "loss" else value > progress.best)
    if better:
        progress.best, progress.best_epoch, progress.waited = value, progress.epoch, 0
    else:
        progress.waited += 1
    progress.stopped = config.patience is not None and progress.waited >= config.patience
    return better


def figures(scores: Scores) -> dict[str, float]:
    """What an epoch's record and a model's card say of the validation split."""
    return {f"val_{name}": value for name, value in scores.summary.items()}


def write_checkpoint(session: Session) -> None:
    if session.accelerator.is_main_process:
        save_checkpoint(session.run.checkpoints, capture(session), session.plan.config.checkpoint.keep)
    session.accelerator.wait_for_everyone()


def stop_if_asked(session: Session, flag: StopFlag) -> None:
    """If a signal has come to any process, leave a checkpoint and stop."""
    signum = flag.signum or 0
    if session.accelerator.num_processes > 1:
        asked = session.accelerator.gather(torch.tensor([signum], device=session.device))
        signum = int(asked.max())
    if not signum:
        return
    progress = session.progress
    if progress.step:
        write_checkpoint(session)
    raise RunInterrupted(
        f"stopped after epoch {progress.epoch}, step {progress.step} of {session.plan.batches.steps}; "
        "a checkpoint is on disk",
        f"ftkit train --resume {session.run.path}",
        signum,
    )


def finish(session: Session) -> Outcome:
    """Keep the last weights beside the best."""
    run, progress = session.run, session.progress
    records = run.records()
    by_epoch = {r["epoch"]: r for r in records}
    if session.accelerator.is_main_process:
        last = {k: v for k, v in records[-1].items() if k.startswith("val_")}
        save_bundle(run.last, session.network, make_card(session.plan, last, progress.epoch))
    return Outcome(run, records, by_epoch[progress.best_epoch], progress.stopped)


class _Clock:
    """Tells the listener of steps, seldom enough that looking doesn't slow a GPU down."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.started = self.told = time.perf_counter()
        self.seen_before = totals(session)[2]

    def tell(self, rates: dict[str, float]) -> None:
        now, session = time.perf_counter(), self.session
        last = session.progress.step == session.plan.batches.steps
        if session.device.type != "cpu" and now - self.told < LISTEN_EVERY and not last:
            return
        self.told = now
        loss, _, seen = totals(session)
        _require_finite(session, loss)
        speed = (seen - self.seen_before) * session.accelerator.num_processes / (now - self.started)
        progress, steps = session.progress, session.plan.batches.steps
        session.listener.step_done(StepDone(progress.epoch + 1, progress.step, steps, loss / seen, rates, speed))


def _require_finite(session: Session, loss: float) -> None:
    if not math.isfinite(loss):
        raise FtkitError(
            f"the loss is {loss} in epoch {session.progress.epoch + 1}, step {session.progress.step}",
            "lower --lr; the checkpoints from before are kept",
        )


def require_unfinished(run: RunFolder, epochs: int) -> None:
    """Refuse to resume a run that is done.

    Raises:
        RequestError: Its last bundle is there, which is written when a run ends.
    """
    if run.last.is_dir():
        raise RequestError(f"{run.path} is finished: there is nothing to resume", "start a new run")
