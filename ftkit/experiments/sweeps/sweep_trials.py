"""The trials of a sweep: runs with values from a search space, which are resumed, pruned and never repeated."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from ftkit.config.load import Resolved
from ftkit.data.loading.seeds import derive
from ftkit.errors import FtkitError, RunInterrupted
from ftkit.experiments.sweeps.search_space import Point, Range, ResolveWith, Space, resolved_at
from ftkit.experiments.sweeps.study_storage import STARTUP_TRIALS, OpenStudy, StudyError
from ftkit.experiments.sweeps.sweep_claims import Claim, counted, next_trial
from ftkit.experiments.sweeps.sweep_results import TrialFacts, trial_facts
from ftkit.experiments.trials import Trial, run_trial, state_of
from ftkit.planning.resolve import make_plan
from ftkit.runs.run_folder import RunFolder
from ftkit.runs.run_summary import model_record, summarize
from ftkit.strategies.schedule import Phase
from ftkit.training.events import EpochDone, Listener, RunStarted, StepDone

if TYPE_CHECKING:
    from optuna.trial import Trial as OptunaTrial

MOST_FIRST_FAILURES = 3
"""Failures in a row that end a sweep before its first trial that doesn't fail; they have one cause most likely."""
MOST_FAILURES = 10
"""Failures in a row that end a sweep later, so that a full disk doesn't use up all trials."""


class TrialPruned(FtkitError):
    """A trial is worse than most at this epoch."""


@dataclass(frozen=True)
class Sweep:
    """A sweep that is about to run.

    Attributes:
        folder: The parent of the run folders.
        metric: Name of the monitored metric, and `label` what it is called.
        trials: Number of trials of the study, those of other processes and failed ones included.
        budget: Seconds after which no trial starts; None for no limit.
        prune: Stop trials early that are worse than most.
    """

    opened: OpenStudy
    base: Resolved
    resolve_with: ResolveWith
    space: Space
    folder: Path
    metric: str
    label: str
    trials: int
    budget: float | None = None
    prune: bool = True
    take_over: bool = False


Announce = Callable[[Claim, Point], None]
DisplayOf = Callable[[RunFolder, int], Listener]


def run_sweep(sweep: Sweep, display_of: DisplayOf, announce: Announce, ended: Callable[[TrialFacts], None]) -> bool:
    """Train trials until the study has them all, or the budget is spent.

    Args:
        display_of: Makes the listener of a run, from its folder and number of epochs.
        announce: Called before each trial, with its values.
        ended: Called after each trial.

    Returns:
        Whether the budget ended it.

    Raises:
        RunInterrupted: A signal has stopped a trial, after a checkpoint; the same command resumes it.
        FtkitError: Several trials have failed in a row.
    """
    started, failures, most = monotonic(), 0, MOST_FIRST_FAILURES
    while sweep.budget is None or monotonic() - started < sweep.budget:
        with next_trial(sweep.opened, sweep.folder, sweep.trials, sweep.take_over) as claim:
            if claim is None:
                return False
            point = _values(sweep, claim)
            announce(claim, point)
            _execute(sweep, claim, point, display_of)
        facts = next(one for one in trial_facts(sweep.opened) if one.number == claim.number)
        ended(facts)
        failures = failures + 1 if facts.state == "failed" else 0
        most = most if failures else MOST_FAILURES
        if failures >= most:
            raise FtkitError(
                f"the last {failures} trials have failed, the last one with: {facts.reason}",
                "correct the cause or narrow --search; failed trials are not repeated",
            )
    return True


def _values(sweep: Sweep, claim: Claim) -> dict[str, str]:
    """The values of a trial; those of one that was started before are kept."""
    from optuna.samplers import TPESampler

    study, trial = sweep.opened.study, claim.trial
    # By the trial's number, since processes that share a study would all draw the same numbers with one seed.
    seed = derive(sweep.base.config.seed, "sweep", trial.number) % 2**32
    study.sampler = TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
    with sweep.opened.errors():
        return {key: _drawn(trial, key, sweep.space) for key in sweep.space}


def _drawn(trial: OptunaTrial, key: str, space: Space) -> str:
    one = space[key]
    if not isinstance(one, Range):
        return str(trial.suggest_categorical(key, one.values))
    if one.whole:
        return one.text(trial.suggest_int(key, int(one.low), int(one.high), log=one.log))
    return one.text(trial.suggest_float(key, one.low, one.high, log=one.log))


def _execute(sweep: Sweep, claim: Claim, point: Point, display_of: DisplayOf) -> None:
    """Train a trial to its end, and tell the study."""
    try:
        if not claim.run.pruned.is_file():
            _train(sweep, claim, point, display_of)
            _tell(sweep, claim, "COMPLETE")
            return
        reason = str(json.loads(claim.run.pruned.read_text(encoding="utf-8"))["reason"])
    except TrialPruned as error:
        reason = error.message
        claim.run.pruned.write_text(json.dumps({"reason": reason}) + "\n", encoding="utf-8")
        claim.run.write_log([f"pruned: {reason}"])
    except StudyError:
        raise
    except RunInterrupted as error:
        hint = "run the same command again to resume"
        raise RunInterrupted(f"trial {claim.number}: {error.message}", hint, error.exit_code - 128) from None
    except FtkitError as error:
        if claim.run.path.is_dir():
            claim.run.write_log([f"error: {error.message}", *([f"hint: {error.hint}"] if error.hint else [])])
        _tell(sweep, claim, "FAIL", error.message)
        return
    _tell(sweep, claim, "PRUNED", reason)


def _train(sweep: Sweep, claim: Claim, point: Point, display_of: DisplayOf) -> None:
    """Train the run of a trial, unless it is finished.

    Raises:
        TrialPruned: It is worse than most.
        RunInterrupted: A signal came.
        FtkitError: It failed.
    """
    resolved = resolved_at(point, sweep.resolve_with)
    with sweep.opened.errors():
        own = resolved.config.model_copy(update={"name": None})
        claim.trial.set_user_attr("config", own.model_dump(mode="json"))
    place = {"output": str(claim.run.path.parent), "name": claim.run.name}
    resolved = replace(resolved, config=resolved.config.model_copy(update=place))
    run = claim.run
    if run.path.is_dir() and not (run.config.is_file() and run.plan.is_file()):
        shutil.rmtree(run.path)  # The process ended while it created the folder.
    plan = make_plan(resolved, run=run if run.path.is_dir() else None)
    state = state_of(run, plan)
    if state == "finished":
        return
    display = display_of(run, plan.config.epochs)
    listener = Pruning(sweep, claim, display, plan.config.epochs)
    trial = Trial(plan.config.strategy.name, plan.config.seed, resolved, run, state, False, plan.task)
    try:
        run_trial(trial, listener)
    finally:
        close = getattr(display, "close", None)
        if close is not None:
            close()


def _tell(sweep: Sweep, claim: Claim, state: Literal["COMPLETE", "PRUNED", "FAIL"], reason: str = "") -> None:
    """Store the result of a trial in the study; a value that isn't finite is a failure."""
    from optuna.trial import TrialState

    value: float | None = None
    found: dict[str, Any] = {}
    if claim.run.config.is_file() and claim.run.plan.is_file():
        summary = summarize(claim.run.path)
        value = summary.value(summary.best)
        found = {"epochs": summary.epochs, "seconds": round(sum(r["seconds"] for r in summary.records), 3)}
    if state == "COMPLETE" and value is None:
        state, reason = "FAIL", f"{sweep.label} is not finite"
    if value is not None:
        found["value"] = value
    with sweep.opened.errors():
        for name, item in (found | ({"reason": reason} if reason else {})).items():
            claim.trial.set_user_attr(name, item)
        told = value if state == "COMPLETE" else None
        sweep.opened.study.tell(claim.number, told, state=TrialState[state])


class Pruning(Listener):
    """Reports the monitored metric of each epoch to the study, and ends a run that is worse than most."""

    def __init__(self, sweep: Sweep, claim: Claim, inner: Listener, epochs: int) -> None:
        self._sweep, self._trial, self._inner, self._epochs = sweep, claim.trial, inner, epochs
        with sweep.opened.errors():
            stored = next(one for one in counted(sweep.opened) if one.number == claim.number)
        self._reported = set(stored.intermediate_values)

    def started(self, event: RunStarted) -> None:
        self._inner.started(event)

    def phase_started(self, phase: Phase, trainable: int) -> None:
        self._inner.phase_started(phase, trainable)

    def step_done(self, event: StepDone) -> None:
        self._inner.step_done(event)

    def note(self, text: str) -> None:
        self._inner.note(text)

    def epoch_done(self, event: EpochDone) -> None:
        """Report an epoch, once also where a resumed run trains it again.

        Raises:
            TrialPruned: The best value so far is worse than the median of earlier trials at this epoch.
        """
        self._inner.epoch_done(event)
        epoch = int(event.record["epoch"])
        value = model_record(event.record).get(f"val_{self._sweep.metric}")
        with self._sweep.opened.errors():
            if epoch not in self._reported:
                self._trial.report(math.nan if value is None else float(value), epoch)
            self._reported.add(epoch)
            worse = self._sweep.prune and 0 < epoch < self._epochs and self._trial.should_prune()
        if worse:
            shown = "not finite" if value is None else f"{value:.4f}"
            raise TrialPruned(
                f"after epoch {epoch} of {self._epochs}, with {self._sweep.label} {shown}: "
                "its best epoch is worse than the median of earlier trials"
            )
