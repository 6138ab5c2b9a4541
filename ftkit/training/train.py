"""A plan executed in a run folder: prepared, trained, and closed in whichever way it ends."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from ftkit.activation_cache.run_cache import RunCache
from ftkit.data.loading.loader import ending_workers
from ftkit.data.loading.workers import explain_worker_errors
from ftkit.distributed import launch_env
from ftkit.errors import FtkitError
from ftkit.planning.run_plan import Plan
from ftkit.plugin_errors import plugin_boundary
from ftkit.runs.run_folder import RunFolder
from ftkit.training.callbacks.checkpointing import make_card, save_model
from ftkit.training.callbacks.model_selection import record_of_model
from ftkit.training.events import Listener
from ftkit.training.memory_errors import explain_memory_errors, position
from ftkit.training.preparation.disk_space import require_disk_space
from ftkit.training.preparation.gradient_check import require_gradients
from ftkit.training.preparation.run_inputs import require_same_inputs, write_inputs
from ftkit.training.run_start import require_unfinished, start_run
from ftkit.training.session import open_session
from ftkit.training.steppers.fsdp import network_to_save, require_computing, shard_network
from ftkit.training.stop_signals import stop_flag
from ftkit.training.stopping import stopped_at_once
from ftkit.training.trainer import Trainer


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        records: One an epoch.
        best: The record of the best epoch, with the metrics of its model. If the model is an average of weights, the
            record of the last epoch that it goes to, with the metrics of the average, and what it is under `average`.
        plan: The plan of the recipe that a search chose; None where the given plan was executed.
    """

    run: RunFolder
    records: list[dict[str, Any]]
    best: dict[str, Any]
    stopped_early: bool
    plan: Plan | None = None


def train(
    plan: Plan, run: RunFolder, listener: Listener | None = None, resume: bool = False, other_world: bool = False
) -> Outcome:
    """Execute a plan in a run folder.

    Args:
        resume: Resume from the newest whole checkpoint in the folder.
        other_world: If another number of processes wrote it, resume from the end of an epoch.

    Raises:
        RequestError: The checkpoint doesn't fit the plan, or nothing is left to do.
        FtkitError: The run failed; checkpoints written until then are kept.
        RunInterrupted: A signal came; a checkpoint of the moment is on disk.
    """
    if resume:
        require_unfinished(run)
    with stop_flag() as flag, stopped_at_once(run, flag), ending_workers():
        try:
            with plugin_boundary("preparing the run"):
                session = open_session(plan, run, listener or Listener(), flag, resume)
                require_disk_space(session)
                trainer = Trainer(session, require_gradients(session), resume)
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
            plugin_boundary(lambda: f"the run, at {position(session)}"),
            explain_worker_errors(),
            explain_memory_errors(session),
        ):
            return execute(trainer, other_world)


def execute(trainer: Trainer, other_world: bool = False) -> Outcome:
    """Train the phases that aren't done, and call the callbacks' `on_exit` however the run ends."""
    cache: RunCache | None = None
    error: BaseException | None = None
    try:
        cache = start_run(trainer, other_world)
        if trainer.session.plan.config.fsdp:
            _shard(trainer)
        for phase in trainer.session.plan.schedule.phases:
            if phase.stop > trainer.session.progress.epoch and not trainer.session.progress.ended:
                trainer.train_phase(phase, cache)
        trainer.reenter_last_phase(cache)
        return _finish(trainer)
    except BaseException as raised:
        error = raised
        raise
    finally:
        for kept in (cache, *trainer.session.decoded.values()):
            if kept is not None:
                kept.close()
        trainer.call("on_exit", error)
        trainer.close()
        del error  # It refers to this frame through its traceback.


def _shard(trainer: Trainer) -> None:
    """Leave each process its shard of the network; until then each has computed with all of it.

    Raises:
        FtkitError: The network can't be sharded.
    """
    session, size = trainer.session, trainer.session.plan.preprocessing
    trainer.shards = shard_network(session.network, session.optimizer, session.built.members, session.device)
    images = session.compute.to_device(torch.zeros(2, size.channels, size.size, size.size))
    require_computing(trainer.shards, images, session.compute)


def _finish(trainer: Trainer) -> Outcome:
    """Write the last weights beside the best."""
    session, progress = trainer.session, trainer.session.progress
    trainer.network_to_save = network_to_save(session.network, trainer.shards, session.plan, session.is_main)
    trainer.call("on_run_end", trainer.context)
    records = session.run.records()
    if session.is_main:
        others = tuple(f"val_{name}_" for name in trainer.callbacks.names_of_weights())
        last = {k: v for k, v in records[-1].items() if k.startswith("val_") and not k.startswith(others)}
        card = make_card(session, last, progress.epoch, trainer.best.last_decision)
        save_model(session, trainer.network_to_save, session.run.last, card)
    session.accelerator.wait_for_everyone()
    best = record_of_model(session.plan, session.run)
    assert best is not None, "a run that has ended has records"
    return Outcome(session.run, records, best, progress.stopped)
