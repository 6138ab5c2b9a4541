"""Learning rates by layer group: the base rate times the strategy's scale, or rates of `group_lr`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ftkit.errors import RequestError, plural, unknown
from ftkit.strategies.schedule import Schedule


def peak_rates(row: Mapping[str, float], base: float, own: Mapping[str, float]) -> dict[str, float]:
    """The learning rate of each trainable group, before the curve.

    Args:
        row: LR scales of one epoch.
        own: Rates by group that replace the scaled base rate.
    """
    return {group: own.get(group, base * scale) for group, scale in row.items()}


def check_group_rates(
    own: Mapping[str, float], schedule: Schedule, strategy: str, where: Callable[[str], str]
) -> tuple[str, ...]:
    """Refuse rates for groups that are unknown or never train.

    Args:
        strategy: Its name, for messages.
        where: The name in messages of each dotted config key.

    Returns:
        A note if the base rate has no effect, since every trainable group has a rate of its own.

    Raises:
        RequestError: A layer group is unknown, or never trains.
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
