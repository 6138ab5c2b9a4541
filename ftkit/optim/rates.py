"""Learning rates by layer group: the strategy's scales of a base rate, or rates given by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ftkit.errors import RequestError, plural, unknown
from ftkit.strategies.schedule import Schedule


def peak_rates(row: Mapping[str, float], base: float, own: Mapping[str, float]) -> dict[str, float]:
    """The rate of each group that trains, before the curve: its own, or else its scale of the base rate.

    Args:
        row: LR scales of one epoch.
        own: Rates by group that take the place of the scaled base rate.
    """
    return {group: own.get(group, base * scale) for group, scale in row.items()}


def check_group_rates(
    own: Mapping[str, float], schedule: Schedule, strategy: str, where: Callable[[str], str]
) -> tuple[str, ...]:
    """Refuse rates that no epoch would use.

    Args:
        strategy: Its name, for messages.
        where: How a message calls a dotted config key.

    Returns:
        What is worth saying: that the base rate has no effect, where every group that trains has its own.

    Raises:
        RequestError: There is no such layer group, or it never trains.
    """
    names = [group.name for group in schedule.groups]
    training = {group for row in schedule.rows for group in row}
    for group in own:
        if group not in names:
            raise unknown("layer group", group, names, where(f"group_lr.{group}"))
        if group not in training:
            raise RequestError(
                f"{where(f'group_lr.{group}')}: {group} never trains under strategy {strategy!r} "
                f"in {plural(len(schedule.rows), 'epoch')}, so it has no use for a learning rate",
                "drop it, or choose a strategy that trains it: full, gradual",
            )
    if own and training <= own.keys():
        return ("every group that trains has its rate from group_lr: optimizer.lr has no effect",)
    return ()
