"""The start of a run: where it left off, or its first weights and the probe."""

from __future__ import annotations

import time

from ftkit.activation_cache.phase_cuts import open_run_cache
from ftkit.activation_cache.run_cache import RunCache
from ftkit.errors import FtkitError, RequestError, one_line
from ftkit.parts.task import HeadFit
from ftkit.runs.checkpoint import has_checkpoint, load_checkpoint
from ftkit.runs.run_folder import RunFolder
from ftkit.training.callbacks.trackers import start_trackers
from ftkit.training.callbacks.weight_drift import keep_first
from ftkit.training.epoch_end import finish_epoch
from ftkit.training.events import Start
from ftkit.training.preparation.probe import NoProbeError, probe_head
from ftkit.training.session import Session
from ftkit.training.state import restore, versions
from ftkit.training.stopping import stop_if_asked


def start_run(session: Session, resume: bool, other_world: bool = False) -> RunCache | None:
    """Go to where the run left off, or judge the first weights where they are already good; open the cache."""
    resumed = resume and resume_run(session, other_world)
    report = session.built.report
    session.listener.started(
        Start(
            plan=session.plan,
            run=session.run.path,
            device=str(session.device),
            precision=session.compute.precision,
            workers=session.workers,
            loaded=report.summary() if report else "",
            resumed=session.progress.epoch if resumed else None,
        )
    )
    start_trackers(session)
    cache = open_run_cache(session, lambda: stop_if_asked(session))
    if resumed:
        return cache
    started = time.perf_counter()
    if cache is not None and session.plan.probe:
        session.feed = cache.probe_feed()
    solution = solve_head(session) if session.plan.probe else None
    keep_first(session)
    if solution is not None:
        finish_epoch(session, {}, started, {"probe_strength": solution.strength})
    elif session.plan.config.keep_head or session.plan.config.epochs == 0:
        finish_epoch(session, {}, started)
    return cache


def resume_run(session: Session, other_world: bool = False) -> bool:
    """Take up the newest whole checkpoint; a run that stopped before its first one starts over.

    Args:
        other_world: Let it be one of another number of processes. Their steps are cut otherwise, so it is the newest
            at the end of an epoch then.
    """
    if not has_checkpoint(session.run.checkpoints):
        rewind(session, -1)
        return False
    state, damaged = load_checkpoint(session.run.checkpoints)
    if other_world and state.identity.get("world") != session.plan.world_size:
        state, damaged = load_checkpoint(session.run.checkpoints, whole_epochs=True)
    for line in damaged:
        session.listener.note(line)
    for name, now in versions(session.plan).items():
        before = state.versions.get(name, now)
        if before != now:
            session.listener.note(f"the run was begun with {name} {before}, this is {now}: last digits may differ")
    try:
        restore(session, state, other_world)
        require_place(session)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise FtkitError(
            f"{session.run.checkpoints}: the newest checkpoint isn't of this run: {one_line(str(error))}",
            "remove it to go on from the one before",
        ) from None
    rewind(session, session.progress.epoch)
    return True


def rewind(session: Session, epoch: int) -> None:
    """Drop the records after `epoch`, once, before any process reads them."""
    if session.is_main:
        session.run.rewind_records(epoch)
    session.accelerator.wait_for_everyone()


def require_place(session: Session) -> None:
    """Look whether the position is one of the plan's, and its records are there.

    Raises:
        ValueError: Says what is wrong.
    """
    progress, plan = session.progress, session.plan
    done = progress.epoch, progress.step
    if done > (plan.config.epochs, 0) or progress.step > plan.batches.steps:
        raise ValueError(f"it is at epoch {done[0]}, step {done[1]}")
    if progress.best is not None and progress.best_epoch not in {r["epoch"] for r in session.run.records()}:
        raise ValueError(f"{session.run.metrics.name} has no epoch {progress.best_epoch}, its best one")


def solve_head(session: Session) -> HeadFit | None:
    """Start the head from the probe; where the network doesn't allow one and nobody asked for it, say so."""
    try:
        return probe_head(session, on_batch=lambda _: stop_if_asked(session))
    except NoProbeError as error:
        if session.plan.probe == "required":
            raise
        session.listener.note(f"no probe: {error.message}")
        return None


def require_unfinished(run: RunFolder) -> None:
    """Refuse to resume a run that is done.

    Raises:
        RequestError: Its last bundle is there, which is written when a run ends.
    """
    if run.last.is_dir():
        raise RequestError(f"{run.path} is finished: there is nothing to resume", "start a new run")
