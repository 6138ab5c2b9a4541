"""The best model and the checkpoints of a run, written to the disk.

A checkpoint holds which epoch is the best so far, so that epoch's model is written before it. Epochs that take next to
no time, as those of a head on cached activations do, are not written one by one: what was trained since the last
checkpoint is trained again after a crash, to the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from ftkit.config.choices import Precision
from ftkit.distributed.collectives import max_over_processes
from ftkit.models.bundle import backbone_id, save_bundle
from ftkit.parts.strategy import Strategy
from ftkit.plugin_errors import plugin_boundary
from ftkit.runs.checkpoint import save_checkpoint
from ftkit.runs.model_card import ModelCard
from ftkit.training.callbacks.trainer_callback import TrainerCallback
from ftkit.training.checkpoint_state import state_of
from ftkit.training.run_calibration import calibrated_card
from ftkit.training.session import Session
from ftkit.training.validation import holding

if TYPE_CHECKING:
    from ftkit.planning.run_plan import Plan
    from ftkit.training.trainer import Trainer
    from ftkit.uncertainty.calibration_fit import CalibrationSample


VALIDATION = "validation images"
"""What calibrations are fitted on."""


@dataclass(frozen=True)
class _Pending:
    """The best model until it is on the disk.

    Attributes:
        values: The tensors on the CPU by name that the current phase can change.
        sample: What its calibration is fitted on once it is written.
    """

    card: ModelCard
    values: Mapping[str, Tensor]
    sample: CalibrationSample | None


class Checkpointing(TrainerCallback):
    """Writes checkpoints, and the best model before each."""

    order = 400

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        self._saved_at = time.monotonic()
        self._unsaved = False
        self._pending: _Pending | None = None
        self._micro_batches = 1

    def on_open(self) -> None:
        self._micro_batches = self.trainer.session.progress.micro_batches

    def on_epoch_recorded(self, record: Mapping[str, Any]) -> None:
        """Write the end of an epoch, or keep in memory what has to be written later."""
        trainer, session, selected = self.trainer, self.trainer.session, self.trainer.validation.selected
        network, card = trainer.network_to_save, None
        if trainer.best.is_best and session.is_main:
            card = make_card(session, selected.metrics, session.progress.epoch, selected.decision)
        if not self._epoch_is_due():
            self._unsaved = True
            if card is not None:
                self._pending = _Pending(card, _changing(network, selected.weights), selected.sample)
            return
        if card is not None:
            self._pending = None
            with holding(network, selected.weights):
                save_model(
                    session,
                    network,
                    session.run.model,
                    calibrated_card(session.plan, card, selected.sample, VALIDATION),
                )
        self.write()

    def on_step_boundary(self) -> None:
        """Write a checkpoint where the config asks for one, and once batches were divided, to resume with that."""
        wanted, step = self.trainer.session.plan.config.checkpoint, self.trainer.session.progress.step
        if (
            self._were_divided()
            or (wanted.every_steps and step % wanted.every_steps == 0)
            or (wanted.every_minutes is not None and self._seconds_have_passed(60 * wanted.every_minutes))
        ):
            self.write()

    def on_interrupt(self) -> None:
        if self.trainer.session.progress.step or self._unsaved:
            self.write()

    def write(self) -> None:
        """Write the state of the moment, on the main process; all processes must call this.

        Raises:
            FtkitError: It can't be written, or isn't finite; the checkpoints from before are kept.
        """
        session, progress = self.trainer.session, self.trainer.session.progress
        for call in self.trainer.callbacks.calls("on_checkpoint"):
            call()
        totals = self.trainer.totals.over_processes(session.accelerator)
        progress.loss_sum, progress.correct, progress.seen = totals
        if self._pending is not None:
            card = calibrated_card(session.plan, self._pending.card, self._pending.sample, VALIDATION)
            with holding(session.network, self._pending.values):
                save_model(session, session.network, session.run.model, card)
            self._pending = None
        state = state_of(self.trainer)
        if session.is_main:
            with session.flag.unhurried():
                save_checkpoint(session.run.checkpoints, state, session.plan.config.checkpoint.keep)
        self._saved_at, self._unsaved = time.monotonic(), False
        self._micro_batches = progress.micro_batches
        session.accelerator.wait_for_everyone()

    def _epoch_is_due(self) -> bool:
        """Whether an epoch's end is written at once: a phase's last always is, others by `checkpoint.min_seconds`."""
        progress, plan = self.trainer.session.progress, self.trainer.session.plan
        ends = {0, plan.config.epochs, *(phase.stop for phase in plan.schedule.phases)}
        if progress.stopped or progress.epoch in ends or self.trainer.shards is not None or self._were_divided():
            return True
        return self._seconds_have_passed(plan.config.checkpoint.min_seconds)

    def _were_divided(self) -> bool:
        """Whether batches are divided further than in the last checkpoint."""
        return self._micro_batches != self.trainer.session.progress.micro_batches

    def _seconds_have_passed(self, seconds: float) -> bool:
        """Since the last checkpoint, by the main process's clock."""
        session, passed = self.trainer.session, time.monotonic() - self._saved_at >= seconds
        return bool(max_over_processes(session.accelerator, int(passed and session.is_main)))


def _changing(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU of the tensors that training changes: parameters that train, and buffers.

    Args:
        weights: Values that replace the network's own.
    """
    trained = ((name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad)
    tensors = {**dict(trained), **dict(network.named_buffers()), **weights}
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def save_model(session: Session, network: nn.Module, folder: Path, card: ModelCard) -> None:
    """Write a network as a model that is complete, whatever the strategy has changed in it."""
    strategy = session.plan.strategy
    with (
        session.flag.unhurried(),
        plugin_boundary(f"merged or save_extra of strategy {session.plan.config.strategy.name!r}", strategy),
    ):
        save_bundle(folder, strategy.merged(network), _with_code(card, session), partial(strategy.save_extra, network))


def make_card(
    session: Session,
    metrics: Mapping[str, float | None],
    epoch: int,
    decision: Mapping[str, Any],
    average: Mapping[str, Any] | None = None,
) -> ModelCard:
    """The card of a model with the weights after `epoch` whole epochs.

    Args:
        decision: The result of `Task.fit_decision`.
        average: Which weights were averaged, if the model is an average.
    """
    plan = session.plan
    return ModelCard(
        classes=plan.splits.classes,
        preprocessing=plan.preprocessing,
        backbone=backbone_id(plan.resolved.registry, plan.config.backbone),
        weights=plan.weights.describe(),
        strategy={"name": plan.config.strategy.name, **plan.config.strategy.options},
        metrics=metrics,
        epoch=epoch,
        fingerprint=plan.fingerprint,
        head=plan.head,
        origin=plan.splits.class_mapping,
        task={"name": plan.config.task.name, **plan.config.task.options},
        decision=decision,
        precision=cast(Precision, session.precision.evaluation),
        dataset=_layout(plan),
        average=average or {},
        teacher={} if plan.teacher is None else plan.teacher.facts,
    )


def _layout(plan: Plan) -> Mapping[str, Any]:
    """The name of the dataset, and its options that other data is likely to share."""
    chosen = plan.config.dataset
    names = plan.resolved.registry.datasets.get(chosen.name).layout_options
    return {"name": chosen.name, **{name: chosen.options[name] for name in names}}


def _with_code(card: ModelCard, session: Session) -> ModelCard:
    """The card with the identity of a project's own network, where the strategy hasn't changed that network."""
    if not card.backbone.is_own or type(session.plan.strategy).adapt is not Strategy.adapt:
        return card
    return replace(card, backbone=replace(card.backbone, code=session.network_facts["identity"]))
