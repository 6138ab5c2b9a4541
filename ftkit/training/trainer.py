"""The training loop, to be read from top to bottom.

Phases, in which the same groups train; epochs; steps. What a step does depends only on where it stands:
order, augmentation, dropout and learning rates are functions of the position, so a run that starts again
from a checkpoint ends with the very weights of one that never stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from time import perf_counter
from typing import Any

import torch
from accelerate import DistributedDataParallelKwargs
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from ftkit.activation_cache.run_cache import RunCache
from ftkit.data.loading.loader import Batch
from ftkit.data.loading.seeds import derive
from ftkit.data.loading.unreadable_images import has_enough_images, skip_unreadable
from ftkit.data.loading.workers import explain_worker_errors
from ftkit.distributed import launch_env
from ftkit.distributed.processes import broadcast_buffers
from ftkit.errors import FtkitError, RequestError
from ftkit.models.compute.compilation import compiled, compiler_faults
from ftkit.models.logits import split_outputs
from ftkit.models.parameter_groups import Modes, set_trainable
from ftkit.optim.optimizers import set_learning_rates
from ftkit.planning.run_plan import Plan
from ftkit.plugin_errors import plugin_boundary
from ftkit.runs.run_folder import RunFolder
from ftkit.strategies.schedule import Phase
from ftkit.training.callbacks.epoch_clock import Clock
from ftkit.training.callbacks.nan_guard import Undo, is_sound, note_loss, require_finite, skip_step, unsound
from ftkit.training.callbacks.plugin_events import announced
from ftkit.training.callbacks.saving import checkpoint_is_due, write_checkpoint
from ftkit.training.callbacks.trackers import stop_trackers
from ftkit.training.epoch_end import Outcome, finish_epoch, finish_run, train_record
from ftkit.training.events import Listener
from ftkit.training.mixing import transform_batch
from ftkit.training.preparation.disk_space import require_room
from ftkit.training.preparation.gradient_check import require_gradients
from ftkit.training.preparation.run_inputs import require_same_inputs, write_inputs
from ftkit.training.run_start import require_unfinished, start_run
from ftkit.training.session import Session, open_session
from ftkit.training.steppers.fsdp import require_computing, shard_network
from ftkit.training.steppers.plain import PlainStepper, Stepper
from ftkit.training.steppers.zero import ZeroStepper
from ftkit.training.stop_signals import stop_flag
from ftkit.training.stopping import stop_if_asked, stopped_at_once


def train(
    plan: Plan, run: RunFolder, listener: Listener | None = None, resume: bool = False, other_world: bool = False
) -> Outcome:
    """Execute a plan in a run folder.

    Args:
        resume: Go on from the newest whole checkpoint in the folder.
        other_world: Where that was written by another number of processes, go on from the end of an epoch.

    Raises:
        RequestError: The checkpoint doesn't fit the plan, or nothing is left to do.
        FtkitError: The run failed; checkpoints written until then are kept.
        RunInterrupted: A signal came; a checkpoint of the moment is on disk.
    """
    if resume:
        require_unfinished(run)
    with stop_flag() as flag, stopped_at_once(run, flag):
        try:
            with plugin_boundary("preparing the run"):
                session = open_session(plan, run, listener or Listener(), flag, resume)
            require_room(session)
            require_gradients(session)
            if resume:
                require_same_inputs(session)
            else:
                write_inputs(session)
        except FtkitError:
            if not resume and launch_env.rank() == 0:
                run.discard()
            raise
        with (
            run.locked() if session.is_main else nullcontext(),
            announced(session, resume),
            plugin_boundary(partial(place, session)),
            explain_worker_errors(),
        ):
            return execute(session, resume, other_world)


def place(session: Session) -> str:
    """Where the run is, for messages; both are counted from 1."""
    progress, plan = session.progress, session.plan
    step = min(progress.step + 1, plan.batches.steps)
    return f"the run, at epoch {min(progress.epoch + 1, plan.config.epochs)}, step {step} of {plan.batches.steps}"


def execute(session: Session, resume: bool, other_world: bool = False) -> Outcome:
    """Go through the phases that aren't done, and end the trackers' runs whatever happens."""
    cache: RunCache | None = None
    try:
        cache = start_run(session, resume, other_world)
        if session.plan.config.fsdp:
            share_network(session)
        for phase in session.plan.schedule.phases:
            if phase.stop > session.progress.epoch and not session.progress.stopped:
                train_phase(session, phase, cache)
        return finish_run(session)
    finally:
        stop_trackers(session)
        for kept in (cache, *session.decoded.values()):
            if kept is not None:
                kept.close()


def share_network(session: Session) -> None:
    """Leave each process its share of the network; until then each has computed by itself, with all of it.

    Raises:
        FtkitError: The network can't be shared out.
    """
    preprocessing = session.plan.preprocessing
    session.shards = shard_network(session.network, session.optimizer, session.built.members, session.device)
    images = session.compute.take(torch.zeros(2, preprocessing.channels, preprocessing.size, preprocessing.size))
    require_computing(session.shards, images, session.compute)


def train_phase(session: Session, phase: Phase, cache: RunCache | None = None) -> None:
    """Train the epochs of one phase that aren't done yet.

    Args:
        cache: Of the activations of what is frozen in it.
    """
    accelerator, network = session.accelerator, session.network
    accelerator.unwrap_model(session.model, keep_fp32_wrapper=False)
    modes = set_trainable(network, session.plan.schedule.groups, phase.trainable, session.plan.config.train_bn)
    require_batches(session.plan, modes)
    session.feed = cache.feed(phase) if cache is not None else session.uncached
    # Wrapped anew for each phase: a wrapper for several processes made for other trainable parameters would let the
    # processes drift apart. A single one needs none; accelerate's autocast would be lost at the second phase.
    wraps = session.world > 1 and session.shards is None and not session.plan.config.zero_stage
    if wraps:  # which waits for the gradient of whatever requires one
        for name in session.unreached:
            network.get_parameter(name).requires_grad_(False)
        if session.branches:
            accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
    session.model = accelerator.prepare_model(session.feed.model) if wraps else session.feed.model
    if session.plan.config.compile:
        session.model = compiled(session.model)
    session.stepper = make_stepper(session)
    session.listener.phase_started(phase, sum(p.numel() for p in network.parameters() if p.requires_grad))
    while session.progress.epoch < phase.stop and not session.progress.stopped:
        modes.apply()
        started = perf_counter()
        train_epoch(session)
        finish_epoch(session, train_record(session), started)
        stop_if_asked(session)
    session.stepper.close()


def make_stepper(session: Session) -> Stepper:
    """What takes the steps of the phase that begins."""
    config = session.plan.config
    if config.zero_stage:
        return ZeroStepper(session.optimizer, config.zero_stage, config.clip_grad)
    return PlainStepper(session.accelerator, session.model, session.optimizer, config.clip_grad)


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


def train_epoch(session: Session) -> None:
    """Take the steps of one epoch, from the one where the run stands."""
    plan, progress = session.plan, session.progress
    session.order.start(progress.epoch, progress.step)
    batches = iter(session.feed.train_loader)
    clock = Clock(session)
    for step in range(progress.step, plan.batches.steps):
        rates = plan.learning_rates(progress.epoch * plan.batches.steps + step)
        set_learning_rates(session.optimizer, rates)
        train_step(session, batches, step)
        progress.step = step + 1
        if clock.is_due():
            require_finite(session)
            clock.tell(rates)
        if progress.step < plan.batches.steps:
            if checkpoint_is_due(session):
                write_checkpoint(session)
            stop_if_asked(session)
    broadcast_buffers(session.network)


def train_step(session: Session, batches: Iterator[Any], step: int) -> None:
    """One optimizer step: the gradient of the mean loss over all images of the step, on all processes."""
    plan = session.plan
    images = len(plan.batches.step(step))
    undo = Undo(session) if plan.config.on_nan == "skip" else None
    total = torch.zeros((), device=session.device)
    for part in range(plan.batches.accumulate):
        batch = skip_unreadable(session, "train", next(batches)).to(session.compute)
        if not has_enough_images(session, batch, len(batch) + len(batch.failures)):
            continue
        batch = transform_batch(session, batch, step * plan.batches.accumulate + part)
        seed_step(session, step * plan.batches.accumulate + part)
        last = part == plan.batches.accumulate - 1
        with session.stepper.adding(last), compiler_faults(plan.config.compile):
            loss = batch_loss(session, batch)
            total += loss.detach()
            # Wrappers average gradients over processes; the mean wanted is over images.
            session.stepper.backward(loss * (session.world / images))
    if undo is None:
        note_loss(session, total, step)
    elif not is_sound(session, total):
        undo.apply()
        skip_step(session, step)
        session.stepper.drop()
        return
    if not session.stepper.apply():
        require_finite(session)
        raise unsound(session, step)


def batch_loss(session: Session, batch: Batch) -> Tensor:
    """Sum of the images' losses, auxiliary classifiers included; counts loss and accuracy of the classifier.

    The counted loss is the plain cross entropy, comparable with the validation loss whatever is smoothed or weighted.
    Of images that a batch transform has mixed, it is the cross entropy with the mixed targets, and a prediction counts
    as right where it is the class with the largest share.
    """
    if not len(batch):
        return idle_loss(session, batch)
    with session.compute.autocast():
        outputs = session.model(batch.images)
    logits, auxiliary = split_outputs(outputs)
    with torch.no_grad():
        plain = cross_entropy(logits, batch.labels, reduction="sum")
        classes = batch.labels if batch.labels.ndim == 1 else batch.labels.argmax(1)
        correct = (logits.argmax(1) == classes).sum()
        session.totals += torch.stack([plain.double(), correct.double(), plain.new_tensor(len(batch)).double()])
    return session.loss(logits, batch.labels, auxiliary)


def idle_loss(session: Session, batch: Batch) -> Tensor:
    """A loss of 0 with gradients of 0, for a process that has no image while others have: they wait for its gradients.

    Networks need not take a batch of none, so it computes an image of zeros. BatchNorm, whose statistics that would
    change, never trains on batches as small as this (`require_batches`).
    """
    images = batch.images.new_zeros(1, *batch.images.shape[1:])
    with session.compute.autocast():
        logits, auxiliary = split_outputs(session.model(images))
    return torch.stack([(0.0 * outputs).sum() for outputs in (logits, *auxiliary)]).sum()


def seed_step(session: Session, batch: int) -> None:
    """Seed what the network itself draws, such as dropout, by position."""
    epoch, rank = session.progress.epoch, session.accelerator.process_index
    seed = derive(session.plan.config.seed, "step", epoch, batch, rank)
    if session.device.type == "cpu":
        # torch's own seeds every device there is, and takes a third of a millisecond for none.
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
