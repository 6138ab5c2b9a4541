"""The table that a run follows: which groups train in which epoch, at what fraction of the rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from numbers import Real

from ftkit.errors import RequestError, unknown
from ftkit.spec.backbone import Backbone, LayerGroup
from ftkit.spec.strategy import Strategy


@dataclass(frozen=True)
class Phase:
    """A run of epochs, `start` to `stop - 1`, in which the same groups train."""

    start: int
    stop: int
    trainable: frozenset[str]


@dataclass(frozen=True)
class Schedule:
    """Layer groups from the input to the head, and one row of LR scales an epoch; absent is frozen."""

    groups: tuple[LayerGroup, ...]
    rows: tuple[Mapping[str, float], ...]

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The epochs cut where the set of trainable groups changes."""
        runs = groupby(enumerate(self.rows), key=lambda item: frozenset(item[1]))
        spans = [(trainable, [epoch for epoch, _ in members]) for trainable, members in runs]
        return tuple(Phase(epochs[0], epochs[-1] + 1, trainable) for trainable, epochs in spans)

    def phase_at(self, epoch: int) -> Phase:
        """The phase that `epoch`, counted from 0, lies in.

        Raises:
            IndexError: The run has no such epoch.
        """
        for phase in self.phases:
            if phase.start <= epoch < phase.stop:
                return phase
        raise IndexError(f"epoch {epoch} of a schedule of {len(self.rows)}")

    def lengthened(self, epochs: int) -> Schedule:
        """The schedule for so many epochs more, in which what trained last goes on to train.

        A strategy that spreads its phases over the run would, asked anew, freeze again what it has thawed.
        """
        return Schedule(self.groups, self.rows + self.rows[-1:] * epochs)


def make_schedule(strategy: Strategy, backbone: Backbone, epochs: int, name: str = "strategy") -> Schedule:
    """Ask a strategy for all of its rows, and check them.

    Args:
        name: How messages call the strategy.

    Raises:
        RequestError: A row names a group that isn't there, has a scale that isn't a number of 0 or more,
            or trains nothing.
    """
    groups = strategy.groups(backbone)
    names = tuple(g.name for g in groups)
    if len(set(names)) != len(names):
        raise RequestError(f"strategy {name!r} has two layer groups of one name: {', '.join(names)}")
    rows = []
    for epoch in range(epochs):
        row = strategy.lr_scales(epoch, epochs, names)
        _check_row(row, names, f"strategy {name!r}, epoch {epoch}")
        rows.append({group: float(row[group]) for group in names if group in row})
    return Schedule(groups, tuple(rows))


def _check_row(row: object, names: tuple[str, ...], where: str) -> None:
    """Refuse what a strategy must not return; it may be anybody's code, so nothing is taken for granted."""
    if not isinstance(row, Mapping):
        raise RequestError(f"{where}: lr_scales returned {row!r}", "return a mapping of layer group to LR scale")
    for group, scale in row.items():
        if group not in names:
            raise unknown("layer group", str(group), names, where)
        if isinstance(scale, bool) or not isinstance(scale, Real) or not math.isfinite(scale) or scale < 0:
            raise RequestError(f"{where}: the LR scale of {group!r} is {scale!r}", "return numbers of 0 or more")
    if not any(row.values()):
        raise RequestError(f"{where}: no layer group trains", "return a scale above 0 for one group at least")
