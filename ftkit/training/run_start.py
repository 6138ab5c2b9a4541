"""The start of a run: its last checkpoint, or its first weights and the probe."""

from __future__ import annotations

import time

from ftkit.activation_cache.phase_cuts import open_run_cache
from ftkit.activation_cache.run_cache import RunCache
from ftkit.errors import FtkitError, RequestError, one_line, shell_word
from ftkit.parts.task import HeadFit
from ftkit.runs.checkpoint import has_checkpoint, load_checkpoint
from ftkit.runs.run_folder import RunFolder
from ftkit.training.callbacks.weight_drift import save_first_weights
from ftkit.training.checkpoint_state import load_state, versions
from ftkit.training.preparation.probe import NoProbeError, probe_head
from ftkit.training.session import Session
from ftkit.training.trainer import Trainer


def start_run(trainer: Trainer, other_world: bool = False) -> RunCache | None:
    """Resume where the run stopped, or evaluate the first weights where they are already good; open the cache."""
    session = trainer.session
    trainer.resumed = trainer.resume and resume_run(trainer, other_world)
    trainer.call("on_open")
    cache = open_run_cache(session, trainer.stop_if_asked)
    if trainer.resumed:
        trainer.call("on_run_start", trainer.context)
        return cache
    started = time.perf_counter()
    if cache is not None and session.plan.probe:
        trainer.feed = cache.probe_feed()
    solution = solve_head(trainer) if session.plan.probe else None
    save_first_weights(session)
    trainer.call("on_run_start", trainer.context)
    if solution is not None:
        trainer.end_epoch(started, {"probe_strength": solution.strength}, trained=False)
    elif session.plan.config.keep_head or session.plan.config.epochs == 0:
        trainer.end_epoch(started, {}, trained=False)
    return cache


def resume_run(trainer: Trainer, other_world: bool = False) -> bool:
    """Load the newest whole checkpoint; a run that stopped before its first one starts over.

    Args:
        other_world: Accept one of another number of processes. Their steps have other images, so it is the newest at
            the end of an epoch then.
    """
    session = trainer.session
    checkpoints = session.run.checkpoints
    if not has_checkpoint(checkpoints):
        rewind(session, -1)
        return False
    state, damaged = load_checkpoint(checkpoints)
    if other_world and state.identity.get("world") != session.plan.world_size:
        state, damaged = load_checkpoint(checkpoints, whole_epochs=True)
    for line in damaged:
        session.listener.note(line)
    for name, now in versions(session.plan).items():
        before = state.versions.get(name, now)
        if before != now:
            session.listener.note(f"the run was started with {name} {before}, this is {now}: last digits may differ")
    try:
        load_state(trainer, state, other_world)
        _require_position(trainer)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise FtkitError(
            f"{checkpoints}: the newest checkpoint isn't of this run: {one_line(str(error))}",
            "remove it to resume from the one before",
        ) from None
    if session.progress.micro_batches > 1:
        session.listener.note(f"each batch is computed as {session.progress.micro_batches} micro-batches, as before")
    rewind(session, session.progress.epoch)
    return True


def rewind(session: Session, epoch: int) -> None:
    """Drop the records after `epoch`, once, before any process reads them."""
    if session.is_main:
        session.run.rewind_records(epoch)
    session.accelerator.wait_for_everyone()


def _require_position(trainer: Trainer) -> None:
    """Check that the position is one of the plan's, and its records are there.

    Raises:
        ValueError: Says what is wrong.
    """
    session, best = trainer.session, trainer.best.best
    progress, plan = session.progress, session.plan
    done = progress.epoch, progress.step
    if done > (plan.config.epochs, 0) or progress.step > plan.batches.steps:
        raise ValueError(f"it is at epoch {done[0]}, step {done[1]}")
    if (best.value is not None or progress.epoch) and best.epoch not in {r["epoch"] for r in session.run.records()}:
        raise ValueError(f"{session.run.metrics.name} has no epoch {best.epoch}, its best one")


def solve_head(trainer: Trainer) -> HeadFit | None:
    """Start the head from the probe; where the network doesn't allow one and none was required, report that."""
    session = trainer.session
    try:
        return probe_head(session, trainer.feed, on_batch=lambda _: trainer.stop_if_asked())
    except NoProbeError as error:
        if session.plan.probe == "required":
            raise
        session.listener.note(f"no probe: {error.message}")
        return None


def require_unfinished(run: RunFolder) -> None:
    """Refuse to resume a run that is done.

    Raises:
        RequestError: Its last model is there, which is written when a run ends.
    """
    if run.is_finished:
        raise RequestError(
            f"{run.path} is finished: there is nothing to resume",
            f"start a new run, or write its report: ftkit report {shell_word(run.path)}",
        )
