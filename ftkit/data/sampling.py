"""Drawing samples by class, the same ones for the same seed on every machine.

Each position gets a key from `random.Random(seed).random()`, whose sequence Python guarantees never to
change, and the lowest keys are taken. The labels' own order matters, so data must list its samples sorted.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from random import Random

from ftkit.errors import RequestError, plural


def stratified_split(
    labels: Sequence[int], fraction: float, seed: int, classes: Sequence[str] = ()
) -> tuple[list[int], list[int]]:
    """Cut the positions of `labels` in two, each class by the same fraction.

    Args:
        fraction: What part of each class is taken, between 0 and 1; rounded to whole samples, but at
            least one is taken and one kept.
        classes: Class names, for messages.

    Returns:
        Positions kept and positions taken, each ascending.

    Raises:
        RequestError: A class has a single sample, which can't be on both sides.
    """
    members = _shuffled(labels, seed)
    lonely = [label for label, positions in members.items() if len(positions) < 2]
    if lonely:
        raise _too_few(lonely, classes)
    taken: list[int] = []
    for positions in members.values():
        count = min(max(1, round(len(positions) * fraction)), len(positions) - 1)
        taken.extend(positions[:count])
    chosen = set(taken)
    return [i for i in range(len(labels)) if i not in chosen], sorted(taken)


def stratified_sample(labels: Sequence[int], count: int, seed: int) -> list[int]:
    """Positions of `count` samples, each class in proportion to its size but at least once; ascending.

    A larger `count` with the same seed gives the smaller draw and more besides.

    Raises:
        RequestError: `count` is less than the number of classes, or more than there is.
    """
    members = _shuffled(labels, seed)
    if count > len(labels):
        raise RequestError(
            f"{plural(count, 'training image')} asked for, but there are {len(labels)}",
            f"set train_samples to {len(labels)} or less",
        )
    if count < len(members):
        raise RequestError(
            f"{plural(count, 'training image')} can't show all of {len(members)} classes",
            f"set train_samples to {len(members)} or more",
        )
    quotas = _apportion({label: len(positions) for label, positions in members.items()}, count)
    return sorted(i for label, positions in members.items() for i in positions[: quotas[label]])


def _shuffled(labels: Sequence[int], seed: int) -> dict[int, list[int]]:
    """Positions of each class in drawing order; classes ascending."""
    draw = Random(seed).random
    members: dict[int, list[tuple[float, int]]] = {}
    for position, label in enumerate(labels):
        members.setdefault(label, []).append((draw(), position))
    return {label: [position for _, position in sorted(members[label])] for label in sorted(members)}


def _apportion(sizes: Mapping[int, int], count: int) -> dict[int, int]:
    """Share `count` out by Sainte-Laguë's method, from one each: the next goes to the class most short.

    No class gets more than it has: a class with all of its samples drawn ranks below 1/2, any other above.
    """
    quotas = dict.fromkeys(sizes, 1)
    queue = [(-size / 3, label) for label, size in sizes.items()]
    heapq.heapify(queue)
    for _ in range(count - len(quotas)):
        label = queue[0][1]
        quotas[label] += 1
        heapq.heapreplace(queue, (-sizes[label] / (2 * quotas[label] + 1), label))
    return quotas


def _too_few(labels: Sequence[int], classes: Sequence[str]) -> RequestError:
    names = [repr(classes[label]) if classes else str(label) for label in labels]
    few = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return RequestError(
        f"{'class' if len(names) == 1 else 'classes'} {few}: one image can't be in both train and val",
        "add images of it, or give the data a val split of its own",
    )
