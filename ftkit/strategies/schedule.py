"""The schedule of a run: which layer groups train in which epoch, at what fraction of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from numbers import Real

from ftkit.errors import RequestError, unknown
from ftkit.parts.backbone import Backbone, LayerGroup
from ftkit.parts.strategy import Strategy
from ftkit.plugin_errors import plugin_boundary


class ImpureStrategyError(RequestError):
    """A strategy that returns different results for the same arguments."""


@dataclass(frozen=True)
class Phase:
    """Epochs `start` to `stop - 1`, in which the same groups train."""

    start: int
    stop: int
    trainable: frozenset[str]


@dataclass(frozen=True)
class Schedule:
    """Layer groups from the input to the head, and for each epoch the LR scales above 0 by group; others are frozen."""

    groups: tuple[LayerGroup, ...]
    rows: tuple[Mapping[str, float], ...]

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """Consecutive epochs with the same trainable groups."""
        runs = groupby(enumerate(self.rows), key=lambda item: frozenset(item[1]))
        spans = [(trainable, [epoch for epoch, _ in members]) for trainable, members in runs]
        return tuple(Phase(epochs[0], epochs[-1] + 1, trainable) for trainable, epochs in spans)

    def phase_at(self, epoch: int) -> Phase:
        """The phase of `epoch`, counted from 0.

        Raises:
            IndexError: The run has no such epoch.
        """
        for phase in self.phases:
            if phase.start <= epoch < phase.stop:
                return phase
        raise IndexError(f"epoch {epoch} of a schedule of {len(self.rows)}")

    def initially_frozen(self) -> dict[str, int]:
        """The number of frozen epochs at the start, for each layer group with any."""
        first = {
            g.name: next((n for n, row in enumerate(self.rows) if g.name in row), len(self.rows)) for g in self.groups
        }
        return {group: epochs for group, epochs in first.items() if epochs}

    def extended(self, epochs: int) -> Schedule:
        """The schedule with more epochs that repeat the last row.

        A new schedule of a strategy that spreads its phases over the run might freeze groups again.
        """
        return Schedule(self.groups, self.rows + self.rows[-1:] * epochs)


def make_schedule(strategy: Strategy, backbone: Backbone, epochs: int, name: str = "strategy") -> Schedule:
    """The schedule of a strategy, checked.

    Args:
        name: Name of the strategy in messages.

    Raises:
        RequestError: A row has an unknown group, a scale that isn't a number of 0 or more, or no scale above 0; or the
            strategy isn't pure: a second call returns other groups or rows.
    """
    groups = _groups(strategy, backbone, name)
    names = tuple(g.name for g in groups)
    rows = [_row(strategy, epoch, epochs, names, name) for epoch in range(epochs)]
    # A second call, in reverse order, reveals dependence on previous calls, time or chance.
    for epoch in reversed(range(epochs)):
        again = _row(strategy, epoch, epochs, names, name)
        if again != rows[epoch]:
            raise ImpureStrategyError(
                f"strategy {name!r} isn't pure: lr_scales({epoch}, {epochs}, ...) gave {rows[epoch]}, then {again}",
                "let it depend on its arguments and fields alone",
            )
    return Schedule(groups, tuple(rows))


def _groups(strategy: Strategy, backbone: Backbone, name: str) -> tuple[LayerGroup, ...]:
    with plugin_boundary(f"groups of strategy {name!r}", strategy):
        groups, again = tuple(strategy.groups(backbone)), tuple(strategy.groups(backbone))
    strange = next((group for group in groups if not isinstance(group, LayerGroup)), None)
    if strange is not None or not groups:
        found = "none" if strange is None else repr(strange)
        raise RequestError(f"strategy {name!r}: groups returned {found}", "return LayerGroup objects, input to head")
    if groups != again:
        raise ImpureStrategyError(
            f"strategy {name!r} isn't pure: its groups are not the same when asked again",
            "let them depend on the backbone and its fields alone",
        )
    names = [group.name for group in groups]
    if len(set(names)) != len(names):
        raise RequestError(f"strategy {name!r} has two layer groups of one name: {', '.join(names)}")
    return groups


def _row(strategy: Strategy, epoch: int, epochs: int, groups: tuple[str, ...], name: str) -> dict[str, float]:
    with plugin_boundary(f"lr_scales({epoch}, {epochs}, ...) of strategy {name!r}", strategy):
        row = strategy.lr_scales(epoch, epochs, groups)
        _check_row(row, groups, f"strategy {name!r}, epoch {epoch}")
        # A group at scale 0 is frozen like a missing one, with its statistics, and may be cached.
        return {group: float(row[group]) for group in groups if row.get(group)}


def _check_row(row: object, names: tuple[str, ...], where: str) -> None:
    """Refuse invalid results of a strategy, which may be a plugin's."""
    if not isinstance(row, Mapping):
        raise RequestError(f"{where}: lr_scales returned {row!r}", "return a mapping of layer group to LR scale")
    for group, scale in row.items():
        if group not in names:
            raise unknown("layer group", str(group), names, where)
        if isinstance(scale, bool) or not isinstance(scale, Real) or not math.isfinite(scale) or scale < 0:
            raise RequestError(f"{where}: the LR scale of {group!r} is {scale!r}", "return numbers of 0 or more")
    if not any(row.values()):
        raise RequestError(f"{where}: no layer group trains", "return a scale above 0 for one group at least")
