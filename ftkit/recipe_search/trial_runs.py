"""The trainings of a search: each recipe has a run folder of its own, cross-fitted or with a validation split."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import monotonic
from types import MappingProxyType

from ftkit.cross_fitting.fold_runs import plan_fold, require_same_images, train_fold
from ftkit.cross_fitting.share_choice import choose, evaluate_shares
from ftkit.errors import FtkitError, RequestError, SettingsError, one_line
from ftkit.metrics.bootstrap import hits, intervals
from ftkit.planning.resolve import make_plan
from ftkit.planning.run_plan import Plan
from ftkit.recipe_search.decisions import Step
from ftkit.recipe_search.recipes import with_changes
from ftkit.recipe_search.search_record import RecipeSearch, RecipeTrial, Score
from ftkit.runs.run_folder import RunFolder
from ftkit.runs.run_summary import summarize
from ftkit.strategies.schedule import Phase
from ftkit.training.events import EpochDone, Listener, RunStarted, StepDone
from ftkit.training.preparation.open_run import open_run
from ftkit.training.preparation.probe import NoProbeError
from ftkit.training.preparation.resume_request import keep_place
from ftkit.training.train import train

ALL: Mapping[str, int] = MappingProxyType({})


class TimeSpentError(FtkitError):
    """The budget is spent within a training."""


@dataclass(frozen=True)
class TrialRun:
    """A recipe with its plan and its run folder."""

    plan: Plan
    run: RunFolder

    @property
    def is_cross_fitted(self) -> bool:
        return bool(self.plan.fold_sizes)


def open_trial(plan: Plan, run: RunFolder, trial: RecipeTrial, samples: Mapping[str, int] = ALL) -> TrialRun:
    """A recipe's run, `trials/NAME` in the folder of the search; it is created where it isn't there.

    Args:
        plan: The plan of the search.
        samples: Config keys that limit the images, and their values; the run is then `trials/NAME-sample`.
    """
    folder = RunFolder(run.trials / (f"{trial.name}-sample" if samples else trial.name))
    # The files of a finished one may be on their way into the folder of the search.
    done = folder.is_finished
    begun = done or (folder.config if plan.fold_sizes else folder.inputs).is_file()
    if folder.path.exists() and not begun:
        shutil.rmtree(folder.path)  # The search was killed while it was made.
    changed = with_changes(plan.resolved, trial.changes)
    place = {"output": str(run.trials.absolute()), "name": folder.name}
    teacher = {} if plan.teacher is None else plan.teacher.config_update
    update: Mapping[str, object] = {"budget": None, **place, **teacher, **samples}
    request = replace(changed, config=changed.config.model_copy(update=update))
    planned = make_plan(request, run=folder if begun and not done else run)
    if not samples:
        require_same_images(plan.splits.train, planned.splits.train)
    return TrialRun(planned, folder if begun else open_run(planned))


def train_step(
    plan: Plan, run: RunFolder, search: RecipeSearch, step: Step, listener: Listener, limit: float | None
) -> RecipeTrial:
    """Train a recipe on one fold, or once where there is a validation split, and evaluate it.

    Args:
        limit: Seconds after which the training is given up; None for no limit.

    Returns:
        The trial with one more score, or with a verdict: its training was given up, or it failed.

    Raises:
        RunInterrupted: A signal came; a checkpoint is on the disk.
        FtkitError: The training failed by what isn't the recipe's fault, such as an unreadable image.
    """
    started, timed = monotonic(), Deadline(listener, limit)
    try:
        opened = open_trial(plan, run, step.trial, search.samples)
    except RequestError as error:
        make_plan(plan.resolved, run=run)  # Where this fails too, it isn't the recipe's fault.
        return replace(step.trial, verdict=one_line(f"failed: {error.message}"))
    try:
        score = _train_fold(opened, step.fold, timed) if opened.is_cross_fitted else train_whole(opened, timed)
    except TimeSpentError as error:
        return replace(step.trial, verdict=error.message)
    except (SettingsError, NoProbeError) as error:
        return replace(step.trial, verdict=one_line(f"failed: {error.message}"))
    return step.trial.with_score(score, monotonic() - started)


def _train_fold(opened: TrialRun, number: int, listener: Listener) -> Score:
    """Train one fold, and evaluate it with the folds before: the best share of the way to the last weights counts."""
    folds = [plan_fold(opened.plan, opened.run, one) for one in range(1, number + 1)]
    train_fold(folds[-1], opened.run, listener)
    plan = opened.plan
    best, monitor = choose(plan, evaluate_shares(plan, folds, _unchecked)), plan.config.monitor
    outputs = plan.task.outputs(best.found.logits, best.found.targets, plan.splits.classes)
    defined = {monitor: plan.metrics[monitor]} if best.metrics[monitor] is not None and outputs.finite.all() else {}
    found = intervals(outputs, defined).get(monitor)
    counted = hits(plan.metrics[monitor], outputs) if defined else None
    each = "" if counted is None else "".join("01"[int(hit)] for hit in counted)
    bounds = None if found is None or found.low is None or found.high is None else (found.low, found.high)
    return Score(best.metrics[monitor], _finite(best.loss), bounds, each)


def train_whole(opened: TrialRun, listener: Listener) -> Score:
    """Train a run with a validation split; the metrics of its model count."""
    plan, run = opened.plan, opened.run
    if not run.is_finished:
        resumes = run.inputs.is_file()
        if resumes:
            keep_place(run, plan)
        train(plan, run, listener, resume=resumes)
    best = summarize(run.path).best
    assert best is not None, "a finished run has records"
    loss = best.get("val_loss")
    return Score(best[f"val_{plan.config.monitor}"], _finite(loss))


def _finite(loss: float | None) -> float | None:
    return loss if loss is not None and math.isfinite(loss) else None


def _unchecked(where: str) -> None:
    """A fold is evaluated within seconds; a signal is checked after it."""


class Deadline(Listener):
    """Passes events on, and gives a training up after some time."""

    def __init__(self, listener: Listener, limit: float | None) -> None:
        self._listener, self._limit, self._started = listener, limit, monotonic()

    def started(self, event: RunStarted) -> None:
        self._listener.started(event)

    def phase_started(self, phase: Phase, trainable: int) -> None:
        self._listener.phase_started(phase, trainable)

    def step_done(self, event: StepDone) -> None:
        self._listener.step_done(event)
        if self._limit is not None and monotonic() - self._started > self._limit:
            raise TimeSpentError("stopped: the budget was spent")

    def epoch_done(self, event: EpochDone) -> None:
        self._listener.epoch_done(event)

    def note(self, text: str) -> None:
        self._listener.note(text)
