"""Whether the disk has room for what a run will write, asked before it trains."""

from __future__ import annotations

import shutil
from pathlib import Path

from ftkit.errors import FtkitError
from ftkit.parts.callback import Callback
from ftkit.training.session import Session

MODELS = 4
"""Copies of the weights beside the checkpoints: the first, the best, the last, and one that is being replaced."""
STATES = 2
"""Values that optimizers keep for a weight, at most: Adam's two moments."""


def require_room(session: Session) -> None:
    """Refuse a run that would fill its disk.

    Raises:
        FtkitError: Says how much is needed, how much is free, and where.
    """
    if not session.is_main:
        return
    folder = session.run.path
    needed = bytes_to_write(session) - _size(folder)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise FtkitError(
            f"{folder}: the run will write {needed / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free there",
            "make room, lower checkpoint.keep, or write elsewhere with --output",
        )


def bytes_to_write(session: Session) -> int:
    """What a run's folder weighs at its largest: models, the checkpoints that are kept, and one that is written."""
    plan = session.plan
    thawed = {group for row in plan.schedule.rows for group in row}
    parameters = dict(session.network.named_parameters())
    trained: int = sum(parameters[name].nbytes for group in thawed for name in session.built.members[group])
    weights: int = sum(tensor.nbytes for tensor in session.network.state_dict().values())
    averages = sum(type(one).weights_to_evaluate is not Callback.weights_to_evaluate for one in plan.callbacks)
    checkpoints = plan.config.checkpoint.keep + 1
    return MODELS * weights + checkpoints * (weights + (STATES + averages) * trained)


def _size(folder: Path) -> int:
    """What is there already, of a run that goes on."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
