"""Stratified sampling, with the same result for the same seed on every machine.

Each position gets a key from `random.Random(seed).random()`, whose sequence Python guarantees never to change, and the
lowest keys are taken. The result depends on the order of the labels, so datasets must list their samples sorted.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Mapping, Sequence
from random import Random

from ftkit.data.multilabel_sampling import sample_label_sets, split_label_sets, stratified_folds
from ftkit.errors import RequestError, plural
from ftkit.parts.label_sets import Labels, LabelSets, count_classes


def stratified_split(
    labels: Labels, fraction: float, seed: int, classes: Sequence[str] = ()
) -> tuple[list[int], list[int]]:
    """Split the positions of `labels` in two, with the same fraction of each class; multi-label, about the same.

    Args:
        fraction: Part of each class to take, between 0 and 1; rounded to whole samples, but at least one is taken and
            at least one is kept.
        classes: Class names, for messages.

    Returns:
        Positions kept and positions taken, each ascending.

    Raises:
        RequestError: A class has only one sample, which can't be in both parts.
    """
    require_two_of_each(labels, classes)
    if isinstance(labels, LabelSets):
        taken = split_label_sets(labels, fraction, seed)
    else:
        members = _shuffled(labels, seed).values()
        counts = (min(max(1, round(len(positions) * fraction)), len(positions) - 1) for positions in members)
        taken = sorted(i for positions, count in zip(members, counts, strict=True) for i in positions[:count])
    chosen = bytearray(len(labels))
    for position in taken:
        chosen[position] = 1
    return [i for i, is_taken in enumerate(chosen) if not is_taken], taken


def stratified_parts(labels: Labels, parts: int, seed: int, classes: Sequence[str] = ()) -> list[list[int]]:
    """Divide the positions of `labels` into parts of about the same size, with about the same fraction of each class.

    With one label per image, sizes differ by one at most, in total and in each class. Each class is outside each part
    too; with several labels per image, if the label sets permit it.

    Args:
        parts: Their number, 2 or more.
        classes: Class names, for messages.

    Returns:
        The positions of each part, ascending; each position is in exactly one.

    Raises:
        RequestError: There are fewer samples than parts, or a class has only one sample.
    """
    if len(labels) < parts:
        raise RequestError(
            f"{plural(len(labels), 'training image')} can't be divided into {parts} parts", "lower folds"
        )
    require_two_of_each(labels, classes)
    if isinstance(labels, LabelSets):
        return stratified_folds(labels, parts, seed)
    order = [place for members in _shuffled(labels, seed).values() for place in members]
    return [sorted(order[first::parts]) for first in range(parts)]


def require_two_of_each(labels: Labels, classes: Sequence[str] = ()) -> None:
    """Refuse a class with a single sample, which can't be in both training and validation images.

    Raises:
        RequestError: Names the class.
    """
    single = sorted(label for label, count in count_classes(labels).items() if count < 2)
    if single:
        raise _too_few(single, classes)


def stratified_sample(labels: Labels, count: int, seed: int) -> list[int]:
    """Positions of `count` samples, with each class in proportion to its size but at least once; ascending.

    A larger `count` with the same seed gives a superset of a smaller one.

    Raises:
        RequestError: As `sample_by_key`, for `train_samples`.
    """
    return sample_by_key(labels, count, seed, "train_samples")


def sample_by_key(labels: Labels, count: int, seed: int, key: str) -> list[int]:
    """As `stratified_sample`, with a `count` that a config key sets.

    Args:
        key: It is named in messages.

    Raises:
        RequestError: `count` is less than the number of classes, or more than the number of samples; multi-label, it
            is less than the number of samples needed to cover all classes.
    """
    if count > len(labels):
        kind = "validation" if key == "val_samples" else "training"
        raise RequestError(
            f"{key} is {count}, but there are {plural(len(labels), f'{kind} image')}",
            f"set {key} to {len(labels)} or less",
        )
    if isinstance(labels, LabelSets):
        try:
            return sample_label_sets(labels, count, seed)
        except ValueError as error:
            raise RequestError(
                f"{key} is {count}, too few to include all classes", f"set {key} to {error} or more"
            ) from None
    members = _shuffled(labels, seed)
    if count < len(members):
        raise RequestError(
            f"{key} is {count}, fewer than the {len(members)} classes",
            f"set {key} to {len(members)} or more",
        )
    quotas = _apportion({label: len(positions) for label, positions in members.items()}, count)
    return sorted(i for label, positions in members.items() for i in positions[: quotas[label]])


def _shuffled(labels: Sequence[int], seed: int) -> dict[int, array[int]]:
    """Positions of each class in random order; classes ascending."""
    draw = Random(seed).random
    keys = array("d", (draw() for _ in labels))
    members: dict[int, array[int]] = {}
    for position, label in enumerate(labels):
        if label not in members:
            members[label] = array("q")
        members[label].append(position)
    # Equal keys stay in the order of their positions.
    return {label: array("q", sorted(members[label], key=keys.__getitem__)) for label in sorted(members)}


def _apportion(sizes: Mapping[int, int], count: int) -> dict[int, int]:
    """Allocate `count` samples to classes by Sainte-Laguë's method, starting from one each.

    No class gets more than it has: a class with all of its samples allocated ranks below 1/2, any other above.
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
        f"{'class' if len(names) == 1 else 'classes'} {few}: a single image can't be in both train and val",
        "add images, or give the dataset its own val split",
    )
