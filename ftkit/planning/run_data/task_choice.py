"""The task of a run, and the default loss and metric of the task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ftkit.config.choices import AUTO
from ftkit.config.load import Resolved, build, with_choice
from ftkit.errors import RequestError
from ftkit.parts.dataset import Splits
from ftkit.parts.label_sets import LabelSets, label_set
from ftkit.parts.task import Task


def choose_task(resolved: Resolved, splits: Splits) -> Resolved:
    """The request with `auto` replaced by a task, a loss and a monitored metric.

    Raises:
        RequestError: The labels or the loss don't fit the task.
    """
    if resolved.config.task.name == AUTO:
        name = "multilabel" if any(split.multilabel for _, split in splits.present()) else "multiclass"
        resolved = with_choice(resolved, "task", name, {}, {})
    task: Task = build(resolved, "task")
    task.check(splits)
    if resolved.config.loss.name == AUTO:
        resolved = with_choice(resolved, "loss", task.loss, {}, {})
    if resolved.config.monitor == AUTO:
        resolved = replace(resolved, config=resolved.config.model_copy(update={"monitor": task.monitor}))
    loss = build(resolved, "loss")
    if task.name not in loss.tasks:
        raise RequestError(
            f"{resolved.where('loss.name')}: loss {resolved.config.loss.name!r} is for {' and '.join(loss.tasks)} "
            f"targets, and the task is {task.name}",
            f"choose another loss, such as {task.loss}",
        )
    return resolved


def labels_of_task(resolved: Resolved, splits: Splits) -> Splits:
    """The splits with sets of labels where the task takes several per image and the data has one."""
    task: Task = build(resolved, "task")
    if task.exclusive:
        return splits
    sets: dict[Any, Any] = {
        name: replace(split, labels=LabelSets(map(label_set, split.labels), len(splits.classes)))
        for name, split in splits.present()
        if not split.multilabel
    }
    return replace(splits, **sets)
