"""A run with a budget: recipes are tried in turn, and the best one becomes the run."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ftkit.cross_fitting.cross_fit import check_inputs, cross_fit, execute
from ftkit.cross_fitting.fold_runs import resume_command, stop_if_asked, stopped_at_once
from ftkit.distributed import launch_env
from ftkit.errors import FtkitError, RequestError, RunInterrupted
from ftkit.files.durable import replace_file
from ftkit.files.json_text import dump_json
from ftkit.planning.run_plan import Plan
from ftkit.recipe_search.decisions import ALL_FOLDS, choose_winner, next_step
from ftkit.recipe_search.recipes import fixed_keys, further_recipes, race_samples, searched_recipes
from ftkit.recipe_search.search_record import RecipeSearch, RecipeTrial, read_search
from ftkit.recipe_search.trial_runs import TrialRun, open_trial, train_step, train_whole
from ftkit.runs import run_folder
from ftkit.runs.run_folder import RunFolder
from ftkit.runs.run_summary import summarize
from ftkit.training.events import Listener
from ftkit.training.preparation.open_run import open_run, write_request
from ftkit.training.run_start import require_unfinished
from ftkit.training.stop_signals import StopFlag, stop_flag
from ftkit.training.train import Outcome

KEPT = (".lock", "config.yaml", "plan.json", "search.json", "train.log", "trials")
"""Files of the search's folder that the winner's don't replace as they are."""


def execute_plan(
    plan: Plan, run: RunFolder, listener: Listener | None = None, resume: bool = False, other_world: bool = False
) -> Outcome:
    """Execute a plan in a run folder: by a search where it has a budget, cross-fitted where it has folds.

    Args and errors as `ftkit.training.train.train`.
    """
    search = read_search(run)
    # With a winner, its files were about to become the run's.
    if search is None or (search.winner and not run.trials.is_dir()):
        return execute(plan, run, listener, resume, other_world)
    if launch_env.world() > 1:
        raise RequestError(f"{run.path} compares recipes, which works in one process only", "resume it in one process")
    return search_recipes(plan, run, search, listener or Listener(), resume)


def open_planned(plan: Plan) -> RunFolder:
    """Create the folder of a run, with what it will search; errors as `open_run`."""
    search = _begin(plan)
    return open_run(plan, {} if search is None else {run_folder.SEARCH: _text(search)})


def search_recipes(plan: Plan, run: RunFolder, search: RecipeSearch, listener: Listener, resume: bool) -> Outcome:
    """Try recipes until the budget is spent or none is left, and make the best one the run.

    Args:
        search: Its state in the run folder.

    Raises:
        RequestError: The run is finished.
        FtkitError: No recipe could be trained.
        RunInterrupted: A signal came; what was trained is on the disk.
    """
    if resume:
        require_unfinished(run)
    with stop_flag() as flag, run.locked(), _resumable(run, flag):
        check_inputs(plan, run, resume)
        if not search.winner:
            search = _try_recipes(plan, run, search, listener, flag)
            _write(run, search)
        winner = _finished(plan, run, search, listener)
        stop_if_asked(run, flag, f"before {search.winner} becomes the run")
        with flag.unhurried():
            _adopt(run, winner)
    best, records = summarize(run.path).best, run.records()
    assert best is not None, "the winner is finished"
    return Outcome(run, records, dict(best), False, winner.plan)


def _begin(plan: Plan) -> RecipeSearch | None:
    """The search of a run before its first training; None for a run without one."""
    trials = searched_recipes(plan)
    if not trials:
        return None
    budget = plan.config.budget if isinstance(plan.config.budget, float) else None
    fixed = () if budget is None else fixed_keys(plan.resolved)
    return RecipeSearch(
        budget=budget,
        folds=len(plan.fold_sizes) or 1,
        monitor=plan.config.monitor,
        lower_is_better=plan.metrics[plan.config.monitor].lower_is_better,
        fixed=fixed,
        trials=trials,
        samples=race_samples(plan),
    )


@contextmanager
def _resumable(run: RunFolder, flag: StopFlag) -> Iterator[None]:
    """Name the command that resumes the search, wherever a signal stops it."""
    try:
        with stopped_at_once(run, flag, lambda _: "stopped at once"):
            yield
    except RunInterrupted as error:
        raise RunInterrupted(error.message, resume_command(run), error.exit_code - 128) from None


def _try_recipes(plan: Plan, run: RunFolder, search: RecipeSearch, listener: Listener, flag: StopFlag) -> RecipeSearch:
    """The search with its winner, after all trainings that the budget allows."""
    first = tuple(trial.name for trial in search.trials if "+" not in trial.name)

    def further(state: RecipeSearch) -> tuple[RecipeTrial, ...]:
        return further_recipes(plan, state)

    while True:
        search, step = next_step(search, first, further)
        if step is None:
            break
        where = step.trial.name + (f", fold {step.fold}" if search.folds > 1 else "")
        stop_if_asked(run, flag, f"before {where}")
        listener.note(_announced(search, step.trial, step.fold))
        leader = search.leader
        limit = None
        if search.budget is not None and leader is not None and step.trial.name != leader.name:
            limit = search.budget - search.spent - search.seconds_left(leader)
        search = search.with_trial(train_step(plan, run, search, step, listener, limit))
        _write(run, search)
    if search.leader is None:
        reasons = "; ".join(f"{trial.name}: {trial.verdict}" for trial in search.trials if trial.verdict)
        raise FtkitError(f"no recipe could be trained: {reasons}", "give --budget none to see the first error")
    return choose_winner(search)


def _announced(search: RecipeSearch, trial: RecipeTrial, fold: int) -> str:
    """One line on the training that begins."""
    where = f", fold {fold} of {search.folds}" if search.folds > 1 else ""
    if search.budget is None:
        return f"comparing recipes: {trial.name}{where}"
    return f"search: {trial.name}{where}; {search.spent:.0f} of {search.budget:.0f} seconds are spent"


def _finished(plan: Plan, run: RunFolder, search: RecipeSearch, listener: Listener) -> TrialRun:
    """The winner's run, trained on all images."""
    opened = open_trial(plan, run, search.named(search.winner))
    if opened.is_cross_fitted and not opened.run.is_finished:
        rest = "its folds are evaluated" if search.reason == ALL_FOLDS else "its other folds are trained"
        listener.note(f"search: {search.winner} has won ({search.reason}); {rest}")
        cross_fit(opened.plan, opened.run, listener, resume=True, other_world=False)
    elif not opened.run.is_finished:
        listener.note(f"search: {search.winner} has won ({search.reason}); it is trained on all images")
        train_whole(opened, listener)
    return opened


def _adopt(run: RunFolder, winner: TrialRun) -> None:
    """Make the winner's files those of the run. What marks the run as finished comes last, so this can be repeated."""
    marks = [mark.name for mark in (winner.run.last, winner.run.cross_fitting)]
    names = sorted(each.name for each in winner.run.path.iterdir())
    _move([winner.run.path / name for name in names if name not in {*marks, *KEPT}], run.path)
    update = {"budget": None, "output": str(run.path.parent.absolute()), "name": run.name}
    config = winner.plan.config.model_copy(update=update)
    write_request(run, replace(winner.plan, resolved=replace(winner.plan.resolved, config=config)))
    _move([winner.run.path / name for name in names if name in marks], run.path)
    shutil.rmtree(run.trials, ignore_errors=True)


def _move(files: Iterable[Path], folder: Path) -> None:
    for file in files:
        target = folder / file.name
        try:
            if target.is_dir():
                shutil.rmtree(target)
            file.replace(target)
        except OSError as error:
            raise FtkitError(
                f"{file} can't be moved to {target}: {error.strerror}", f"make {folder} writable, then resume the run"
            ) from error


def _write(run: RunFolder, search: RecipeSearch) -> None:
    replace_file(run.search, _text(search).encode())


def _text(search: RecipeSearch) -> str:
    return dump_json(search.to_json(), indent=1) + "\n"
