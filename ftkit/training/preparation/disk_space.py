"""Whether the disk has space for the files of a run, checked before it trains."""

from __future__ import annotations

import shutil
from pathlib import Path

from ftkit.errors import FtkitError
from ftkit.parts.callback import replaces_weights
from ftkit.training.session import Session

MODELS = 4
"""Copies of the weights beside the checkpoints: first, best, last, and one that is being replaced."""
STATES = 2
"""Most optimizer state values for a weight: Adam's two moments."""


def require_disk_space(session: Session) -> None:
    """Refuse a run that would fill its disk.

    Raises:
        FtkitError: Names the folder, the bytes needed and the bytes free.
    """
    if not session.is_main:
        return
    folder = session.run.path
    needed = bytes_to_write(session) - _size(folder)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise FtkitError(
            f"{folder}: the run will write {needed / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free there",
            "free disk space, lower checkpoint.keep, or write elsewhere with --output",
        )


def bytes_to_write(session: Session) -> int:
    """Largest size of a run folder: models, the checkpoints that are kept, and one that is being written."""
    plan = session.plan
    thawed = {group for row in plan.schedule.rows for group in row}
    parameters = dict(session.network.named_parameters())
    trained: int = sum(parameters[name].nbytes for group in thawed for name in session.built.members[group])
    weights: int = sum(tensor.nbytes for tensor in session.network.state_dict().values())
    averages = int(plan.averaging is not None and bool(plan.averaging.epochs))
    averages += sum(replaces_weights(one) for one in plan.callbacks)
    checkpoints = plan.config.checkpoint.keep + 1
    return MODELS * weights + checkpoints * (weights + (STATES + averages) * trained)


def _size(folder: Path) -> int:
    """Bytes that are there already, of a run that resumes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
