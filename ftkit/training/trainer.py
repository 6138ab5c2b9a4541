"""The training loop: phases, in which the same layer groups train; epochs; steps.

What a step does depends only on its position: order, augmentation, dropout and learning rates are functions of it, so
a run that resumes from a checkpoint ends with the same weights as one that never stopped. Everything else that happens
at the events of a run is a callback.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import Any

from torch import nn

from ftkit.activation_cache.feed import Feed
from ftkit.activation_cache.run_cache import RunCache
from ftkit.data.loading.decoded_images import available_memory
from ftkit.data.loading.loader import start_workers
from ftkit.distributed.processes import broadcast_buffers
from ftkit.errors import FtkitError
from ftkit.files.json_text import replace_nonfinite
from ftkit.models.compute.allocator import PageFaults, keep_larger_blocks
from ftkit.models.parameter_groups import modes_of
from ftkit.optim.optimizers import set_learning_rates
from ftkit.strategies.schedule import Phase
from ftkit.training.callbacks.own_callbacks import make_callbacks
from ftkit.training.callbacks.reporter import EpochClock
from ftkit.training.preparation.gradient_check import GradientReach
from ftkit.training.run_context import RunContext
from ftkit.training.session import Session
from ftkit.training.steppers.fsdp import Shards, network_to_save
from ftkit.training.steps.active_phase import ActivePhase, enter_phase, freeze
from ftkit.training.steps.batch_division import agree_on_division
from ftkit.training.steps.epoch_totals import EpochTotals
from ftkit.training.steps.step_gradient import step_gradient
from ftkit.training.stopping import interruption, signal_that_came
from ftkit.training.validation import Validation, validate


class Trainer:
    """A run under way.

    Attributes:
        reach: Which parameters a gradient reaches.
        context: The view that callbacks get.
        best: Which epoch is the best so far.
        shards: The sharded network, with `--fsdp` and after the probe.
        resume: Whether the run is to resume; `resumed`: whether it had a checkpoint to resume from.
        feed: Network and batches in use.
        active: The phase under way, or the last one.
        validation: The validation of the last epoch that ended.
        network_to_save: The network at an epoch's end, gathered in the main process where it is sharded.
    """

    validation: Validation

    def __init__(self, session: Session, reach: GradientReach, resume: bool = False) -> None:
        self.session = session
        self.reach = reach
        self.totals = EpochTotals(session.device)
        self.context = RunContext(session)
        self.best, self.callbacks = make_callbacks(self)
        self.shards: Shards | None = None
        self.resume = resume
        self.resumed = False
        self.feed: Feed = session.uncached
        self.active: ActivePhase | None = None
        self.network_to_save: nn.Module = session.network
        self.clock = EpochClock(self)

    def train_phase(self, phase: Phase, cache: RunCache | None) -> None:
        """Train the epochs of one phase that aren't done yet.

        Args:
            cache: The cache of the activations of frozen layers.
        """
        session, progress = self.session, self.session.progress
        session.accelerator.unwrap_model(self.active.model if self.active else session.network, False)
        modes = freeze(session, phase)
        self.feed = cache.feed(phase) if cache is not None else session.uncached
        self.active = active = enter_phase(session, phase, modes, self.feed, self.reach, self.shards)
        agree_on_division(session, active)
        self.context.trainable = phase.trainable
        self.call("on_phase_start", self.context)
        while progress.epoch < phase.stop and not progress.ended:
            modes.apply()
            started = perf_counter()
            self.train_epoch(active)
            self.end_epoch(started, self.train_metrics())
            self.stop_if_asked()
        active.stepper.close()

    def reenter_last_phase(self, cache: RunCache | None) -> None:
        """In a run that was stopped after its last epoch, evaluate the weights in the way of its last phase.

        Args:
            cache: As in `train_phase`.
        """
        session, epoch = self.session, self.session.progress.epoch
        if self.active is None and epoch and session.plan.averaging is not None:
            phase = session.plan.schedule.phase_at(epoch - 1)
            freeze(session, phase)
            self.feed = cache.feed(phase) if cache is not None else session.uncached

    def train_epoch(self, active: ActivePhase) -> None:
        """Take the steps of one epoch, from the run's position on."""
        session, plan, progress = self.session, self.session.plan, self.session.progress
        session.order.start(progress.epoch, progress.step)
        start_workers(active.feed.val_loader)
        batches = iter(active.feed.train_loader)
        faults, self.clock = PageFaults(), EpochClock(self)
        for step in range(progress.step, plan.batches.steps):
            rates = plan.learning_rates(progress.epoch * plan.batches.steps + step)
            set_learning_rates(session.optimizer, rates)
            taken = self.train_step(active, batches, step)
            progress.step, self.context.learning_rates = step + 1, rates
            if taken:
                self.call("on_step_end", self.context)
            if self.clock.is_due():
                self.call("on_report", rates)
            if progress.step < plan.batches.steps:
                self.call("on_step_boundary")
                self.stop_if_asked()
        if session.device.type == "cpu":
            keep_larger_blocks(faults, available_memory())
        broadcast_buffers(session.network)

    def train_step(self, active: ActivePhase, batches: Iterator[Any], step: int) -> bool:
        """One optimizer step by the gradient of the mean loss over all images of the step, on all processes.

        Returns:
            False where a callback has left the step out.
        """
        self.call("on_step_start")
        total = step_gradient(self.session, active, batches, step, self.totals)
        if not all(allows(total, step) for allows in self.callbacks.calls("allows_update")):
            active.stepper.drop()
            return False
        if not active.stepper.apply():
            self.call("on_update_refused", step)
        return True

    def train_metrics(self) -> dict[str, float]:
        """Mean loss and accuracy over the epoch's training images, as they were drawn and augmented."""
        loss, correct, seen = self.totals.over_processes(self.session.accelerator)
        if not seen:
            epoch = self.session.progress.epoch + 1
            raise FtkitError(f"every step of epoch {epoch} was left out: none had a finite loss", "lower --lr")
        return {"train_loss": loss / seen, "train_accuracy": correct / seen}

    def end_epoch(self, started: float, metrics: Mapping[str, float], trained: bool = True) -> None:
        """Validate and record the epoch; callbacks save the weights.

        Args:
            metrics: Metrics to record beside those of the validation.
            trained: False for epoch 0, the evaluation of the first weights.
        """
        session, plan, progress = self.session, self.session.plan, self.session.progress
        seconds = perf_counter() - started
        self.call("on_epoch_trained")
        self.validation = self.validate()
        if trained:
            progress.epoch, progress.step = progress.epoch + 1, 0
        self.totals.reset()
        self.network_to_save = network_to_save(session.network, self.shards, session.plan, session.is_main)
        # By position, since a run that was stopped in its validation resumes without a step of this epoch.
        last = plan.learning_rates(progress.epoch * plan.batches.steps - 1) if trained else {}
        rates = {group: rate for group, rate in last.items() if rate}
        known = {"epoch": progress.epoch, **metrics, **self.validation.record(), "lr": rates}
        # Callbacks and listeners get what the file has: null for numbers that aren't finite.
        record = self.callbacks.extended_record(self.context, replace_nonfinite(known | {"seconds": round(seconds, 3)}))
        progress.stopped = progress.stopped and progress.epoch < plan.config.epochs
        if session.is_main:
            session.run.append_record(record)
        self.call("on_epoch_recorded", record)
        self.network_to_save = session.network

    def validate(self) -> Validation:
        """Evaluate the weights, and those that callbacks bring, on the validation images."""
        modes = self.active.modes if self.active else modes_of(self.session.network)
        others = self.callbacks.weights_to_evaluate(self.context)
        return validate(self.session, self.feed, self.shards, others, self.stop_if_asked, modes)

    def stop_if_asked(self) -> None:
        """If a signal has come to any process, write a checkpoint and stop.

        Raises:
            RunInterrupted: One has come.
        """
        signum = signal_that_came(self.session)
        if signum:
            self.call("on_interrupt")
            raise interruption(self.session, signum)

    def close(self) -> None:
        """Let go of the session, so that its worker processes end now.

        Callbacks and trainer refer to each other: only a garbage collection would find them otherwise.
        """
        vars(self).clear()

    def call(self, event: str, *args: Any) -> None:
        """Call the callbacks that implement an event, in order."""
        for method in self.callbacks.calls(event):
            method(*args)
