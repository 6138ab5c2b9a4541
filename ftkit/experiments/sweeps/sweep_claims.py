"""Which process trains which trial of a sweep: a trial belongs to a machine, and a locked file to a process."""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING
from uuid import uuid4

from ftkit.errors import FtkitError
from ftkit.experiments.sweeps.study_storage import OpenStudy
from ftkit.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

MACHINE, FOLDER, CLAIM, SURPLUS = "machine", "folder", "claim", "surplus"
"""Attributes of a trial: the machine and folder that it runs in, an id of the process, and that it was one too many."""


@dataclass(frozen=True)
class Claim:
    """A trial that this process trains.

    Attributes:
        resumed: Whether it was started before, by a process that has ended.
    """

    trial: Trial
    run: RunFolder
    resumed: bool

    @property
    def number(self) -> int:
        return int(self.trial.number)


@contextmanager
def next_trial(opened: OpenStudy, folder: Path, trials: int, take_over: bool) -> Iterator[Claim | None]:
    """The next trial to train, which no other process gets meanwhile: an unfinished one of this machine, or a new one.

    Args:
        folder: The parent of the run folders.
        trials: Number of trials of the study; None is yielded when it has them.
        take_over: Take unfinished trials of other machines too.
    """
    lock: IO[str] | None = None
    try:
        with opened.errors(), _one_at_a_time(folder):
            claim, lock = _unfinished(opened, folder, take_over) or _new(opened, folder, trials) or (None, None)
        yield claim
    finally:
        if lock is not None:
            lock.close()


def counted(opened: OpenStudy) -> list[FrozenTrial]:
    """The trials of a study by number, without surplus ones."""
    with opened.errors():
        found = opened.study.get_trials(deepcopy=False)
    return sorted((one for one in found if SURPLUS not in one.user_attrs), key=lambda one: one.number)


def run_of(trial: FrozenTrial) -> RunFolder:
    """The run folder of a trial, on its machine."""
    return RunFolder(Path(trial.user_attrs.get(FOLDER, "."), f"trial-{trial.number}"))


def _unfinished(opened: OpenStudy, folder: Path, take_over: bool) -> tuple[Claim, IO[str]] | None:
    from optuna.trial import Trial, TrialState

    for one in opened.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        mine = one.user_attrs.get(MACHINE) == socket.gethostname()
        if SURPLUS in one.user_attrs or not (mine or take_over):
            continue
        run = run_of(one)
        # On another machine the folder may have another place.
        run = run if mine or run.path.is_dir() else RunFolder(folder / run.name)
        lock = _locked(run)
        if lock is None:
            continue
        trial = Trial(opened.study, one._trial_id)
        if trial.storage.get_trial(one._trial_id).state != TrialState.RUNNING or run.is_locked():
            lock.close()
            continue
        trial.set_user_attr(MACHINE, socket.gethostname())
        trial.set_user_attr(FOLDER, str(run.path.parent))
        return Claim(trial, run, resumed=True), lock
    return None


def _new(opened: OpenStudy, folder: Path, trials: int) -> tuple[Claim, IO[str]] | None:
    from optuna.trial import Trial, TrialState, create_trial

    while len(counted(opened)) < trials:
        claim = uuid4().hex
        attributes = {MACHINE: socket.gethostname(), FOLDER: str(folder), CLAIM: claim}
        opened.study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=attributes))
        known = counted(opened)
        place, one = next((i, t) for i, t in enumerate(known) if t.user_attrs.get(CLAIM) == claim)
        trial = Trial(opened.study, one._trial_id)
        if place >= trials:
            # Several processes have added one at the same time.
            trial.set_user_attr(SURPLUS, True)
            opened.study.tell(one.number, state=TrialState.FAIL)
            return None
        lock = _locked(run_of(one))
        if lock is not None:
            return Claim(trial, run_of(one), resumed=False), lock
    return None


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let the processes of this machine claim one after another: a trial that was just added isn't locked yet."""
    with _opened(folder / ".claims.lock") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _opened(path: Path) -> IO[str]:
    """A file to lock.

    Raises:
        FtkitError: It can't be created.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise FtkitError(f"can't write {path}: {error.strerror}", "give another --output") from None


def _locked(run: RunFolder) -> IO[str] | None:
    """The locked file of a trial; None where another process has it. The lock ends with the process."""
    file = _opened(run.path.with_name(f".{run.name}.lock"))
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
