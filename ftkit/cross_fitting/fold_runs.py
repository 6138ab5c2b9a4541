"""The folds of a cross-fitted run: complete runs, trained one after another. Finished ones are reused."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ftkit.config.load import Resolved
from ftkit.distributed import launch_env
from ftkit.distributed.processes import main_first, run_on_main
from ftkit.errors import FtkitError, RunInterrupted, one_line, plural
from ftkit.parts.dataset import Split
from ftkit.planning.resolve import make_plan
from ftkit.planning.run_plan import Plan
from ftkit.runs.run_folder import RunFolder
from ftkit.training.events import Listener
from ftkit.training.preparation.open_run import open_run
from ftkit.training.preparation.resume_request import keep_place
from ftkit.training.stop_signals import StopFlag
from ftkit.training.train import train


@dataclass(frozen=True)
class Fold:
    """A trained fold.

    Attributes:
        number: From 1.
        plan: The plan of its run, whose validation split is this part of the images.
    """

    number: int
    plan: Plan
    run: RunFolder

    @property
    def images(self) -> Split:
        """The images that the fold validates."""
        assert self.plan.splits.val is not None, "make_plan gives a fold validation images"
        return self.plan.splits.val


def train_folds(plan: Plan, run: RunFolder, listener: Listener, flag: StopFlag, other_world: bool) -> list[Fold]:
    """Train the folds that aren't finished; all processes must call this.

    Args:
        flag: Checked between the folds.
        other_world: See `train`.

    Raises:
        RequestError, FtkitError: As `train`.
        RunInterrupted: A signal came; what was trained is on the disk.
    """
    shown = list(plan.notes)
    folds = []
    for number in range(1, plan.config.folds + 1):
        stop_if_asked(run, flag, f"before fold {number} of {plan.config.folds}")
        fold = plan_fold(plan, run, number)
        fresh = [note for note in fold.plan.notes if note not in shown]
        shown += fresh
        for note in fresh if launch_env.rank() == 0 else ():
            listener.note(note)
        train_fold(fold, run, listener, other_world)
        folds.append(fold)
    return folds


def stop_if_asked(run: RunFolder, flag: StopFlag, where: str) -> None:
    """Stop if a signal has come to the main process; all must call this.

    Raises:
        RunInterrupted: One has come.
    """
    signum = run_on_main(flag.check)
    if signum:
        flag.acknowledge()
        raise RunInterrupted(f"stopped {where}", resume_command(run), signum)


@contextmanager
def stopped_at_once(run: RunFolder, flag: StopFlag, describe: Callable[[RunFolder], str]) -> Iterator[None]:
    """Turn an interrupt, by a second Ctrl-C or after the time limit, into the command that resumes the run.

    Args:
        describe: Returns the message.
    """
    try:
        yield
    except KeyboardInterrupt:
        flag.acknowledge()
        raise RunInterrupted(describe(run), resume_command(run), flag.signum or signal.SIGINT) from None


def resume_command(run: RunFolder) -> str:
    """The command that resumes a run with as many processes as now."""
    return launch_env.resume_command(str(run.path), launch_env.world())


def plan_fold(plan: Plan, run: RunFolder, number: int) -> Fold:
    """A fold with its plan, made as `ftkit train --fold` would make it."""
    folder = RunFolder(run.folds / str(number))
    begun = run_on_main(lambda: _is_begun(folder))
    request = _request(plan, run.folds, number)
    planned = main_first(lambda: make_plan(request, run=folder if begun else None))
    require_same_images(plan.splits.train, planned.splits.train, planned.splits.val)
    return Fold(number, replace(planned, world_size=plan.world_size), folder)


def require_same_images(whole: Split | None, *parts: Split | None) -> None:
    """Require that the images of a fold, or of a recipe, are those of the run.

    Raises:
        FtkitError: The data has changed while the run was training.
    """
    names = {name for part in parts if part is not None for name in part.names}
    if whole is None or names != set(whole.names):
        changed = sorted(names.symmetric_difference(() if whole is None else whole.names))
        raise FtkitError(
            f"{plural(len(changed), 'training image')} came or went while the run was training: {one_line(changed[0])}",
            "put the data back as it was, then resume the run",
        )


def _request(plan: Plan, folds: Path, number: int) -> Resolved:
    # Weights between the first and the last are compared, and a report is written, for all folds together.
    update: Mapping[str, object] = {
        "fold": number,
        "budget": None,
        "output": str(folds.absolute()),
        "name": str(number),
        "weight_averaging": False,
        "report": False,
        "calibration": "off",
        **({} if plan.teacher is None else plan.teacher.config_update),
    }
    return replace(plan.resolved, config=plan.config.model_copy(update=update))


def _is_begun(folder: RunFolder) -> bool:
    """Whether a fold's folder is complete enough to resume it; one that was killed while it was made is removed."""
    if folder.path.exists() and not folder.inputs.is_file():
        shutil.rmtree(folder.path)
    return folder.path.exists()


def train_fold(fold: Fold, run: RunFolder, listener: Listener, other_world: bool = False) -> None:
    """Train a fold, or resume it; one that is finished is left as it is. Args and errors as in `train_folds`."""
    begun, finished = run_on_main(lambda: [fold.run.path.exists(), fold.run.is_finished])
    if finished:
        return
    try:
        if begun:
            keep_place(fold.run, fold.plan)
            train(fold.plan, fold.run, listener, resume=True, other_world=other_world)
        else:
            train(fold.plan, open_run(fold.plan), listener)
    except RunInterrupted as error:
        message = f"fold {fold.number} of {fold.plan.config.folds}: {error.message}"
        raise RunInterrupted(message, resume_command(run), error.exit_code - 128) from None
