"""What of a run is on the disk, and when: its best model and its checkpoints.

A checkpoint knows which epoch is the best so far, so that epoch's model is written before it. Epochs that take next to
no time, as those of a head on cached activations do, are not written one by one: what was trained since the last
checkpoint is trained again after a crash, to the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ftkit.distributed.collectives import max_over_processes
from ftkit.models.build import build_bare
from ftkit.models.bundle import backbone_id, save_bundle
from ftkit.parts.strategy import Strategy
from ftkit.planning.run_plan import Plan
from ftkit.plugin_errors import plugin_boundary
from ftkit.runs.checkpoint import save_checkpoint
from ftkit.runs.model_card import ModelCard
from ftkit.training.callbacks.nan_guard import require_finite, require_finite_weights
from ftkit.training.session import Best, Session
from ftkit.training.state import all_totals, capture
from ftkit.training.steppers.fsdp import gathered


def save_epoch(session: Session, network: nn.Module, best: Mapping[str, float | None] | None) -> None:
    """Write the end of an epoch down, or keep in memory what has to be written later.

    All processes must ask.

    Args:
        network: The whole of it.
        best: Its metrics, where it is the best so far.
    """
    card = make_card(session.plan, best, session.progress.epoch) if best is not None and session.is_main else None
    if not epoch_is_due(session):
        session.unsaved = True
        session.best = Best(card, changing(network)) if card is not None else session.best
        return
    if card is not None:
        session.best = None
        keep_model(session, network, session.run.model, card)
    write_checkpoint(session)


def epoch_is_due(session: Session) -> bool:
    """Whether the end of an epoch is written at once: a phase's last always is, others by `checkpoint.min_seconds`."""
    progress, plan = session.progress, session.plan
    ends = {0, plan.config.epochs, *(phase.stop for phase in plan.schedule.phases)}
    if progress.stopped or progress.epoch in ends or session.shards is not None:
        return True
    return _seconds_have_passed(session, plan.config.checkpoint.min_seconds)


def checkpoint_is_due(session: Session) -> bool:
    """Whether `checkpoint.every_steps` or `checkpoint.every_minutes` asks for one after this step."""
    wanted = session.plan.config.checkpoint
    if wanted.every_steps and session.progress.step % wanted.every_steps == 0:
        return True
    return wanted.every_minutes is not None and _seconds_have_passed(session, 60 * wanted.every_minutes)


def _seconds_have_passed(session: Session, seconds: float) -> bool:
    """Since the last checkpoint. The main process's clock decides for all; the others have nothing to add."""
    late = time.monotonic() - session.saved_at >= seconds
    return bool(max_over_processes(session.accelerator, int(late and session.is_main)))


def write_checkpoint(session: Session) -> None:
    """Write the state of the moment, on the main process.

    Raises:
        FtkitError: It can't be written, or isn't finite; the checkpoints from before are kept.
    """
    require_finite(session)
    if session.progress.step:  # At the end of an epoch they were looked at before they were judged.
        require_finite_weights(session)
    session.progress.loss_sum, session.progress.correct, session.progress.seen = all_totals(session)
    keep_best(session)
    state = capture(session)
    if session.is_main:
        with session.flag.unhurried():
            save_checkpoint(session.run.checkpoints, state, session.plan.config.checkpoint.keep)
    session.saved_at, session.unsaved = time.monotonic(), False
    session.accelerator.wait_for_everyone()


def keep_best(session: Session) -> None:
    """Write the best model, where it waits for that."""
    best = session.best
    if best is not None:
        with holding(session.network, best.values):
            keep_model(session, session.network, session.run.model, best.card)
        session.best = None


def changing(network: nn.Module) -> dict[str, Tensor]:
    """Copies on the CPU of what training changes: parameters that train, and buffers."""
    trained = ((name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad)
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in (*trained, *network.named_buffers())}


@contextmanager
def holding(network: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Give some of a network's tensors other values meanwhile."""
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    own = {name: tensors[name].detach().clone() for name in values}
    try:
        _put(tensors, values)
        yield
    finally:
        _put(tensors, own)


@torch.no_grad()
def _put(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        tensors[name].copy_(value)


def whole_network(session: Session) -> nn.Module:
    """The network; where it is shared out, in the main process a copy on the CPU that has all of it.

    All processes must ask.
    """
    if session.shards is None:
        return session.network
    state = gathered(session.network.state_dict(), session.is_main)
    if not session.is_main:
        return session.network
    copy = build_bare(session.plan)
    copy.load_state_dict(state)
    return copy


def keep_model(session: Session, network: nn.Module, folder: Path, card: ModelCard) -> None:
    """Write a network as a model that is complete, whatever the strategy has changed in it."""
    strategy = session.plan.strategy
    with (
        session.flag.unhurried(),
        plugin_boundary(f"merged or save_extra of strategy {session.plan.config.strategy.name!r}", strategy),
    ):
        save_bundle(folder, strategy.merged(network), _with_code(card, session), partial(strategy.save_extra, network))


def _with_code(card: ModelCard, session: Session) -> ModelCard:
    """The card with what a project's own network is known by, where that is the network which the backbone builds."""
    if not card.backbone.is_own or type(session.plan.strategy).adapt is not Strategy.adapt:
        return card
    return replace(card, backbone=replace(card.backbone, code=session.network_facts["identity"]))


def make_card(plan: Plan, metrics: Mapping[str, float | None], epoch: int) -> ModelCard:
    """The card of a bundle with the weights after `epoch` whole epochs."""
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
    )
