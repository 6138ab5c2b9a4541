"""Which metrics are computed: the default ones of a task, and others by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from ftkit.config.choices import AUTO
from ftkit.config.load import Resolved, build
from ftkit.errors import RequestError, one_line
from ftkit.parts.metric import Metric
from ftkit.parts.task import Task
from ftkit.plugins import Registry

EPOCH_METRICS = ("loss", "accuracy", "subset_accuracy", "macro_f1")
"""Metrics shown for each epoch, where the task has them."""
MAIN = ("accuracy", "macro_f1", "subset_accuracy", "loss")
"""Metrics of tables of several runs, where the task has them."""


def default_metrics(registry: Registry, task: Task, classes: int) -> dict[str, Metric]:
    """The default metrics of a task that depend on the model with so many classes, by name."""
    metrics = named_metrics(registry, task.metrics)
    return {name: metric for name, metric in metrics.items() if classes >= metric.min_classes}


def main_metrics(registry: Registry, task: Task) -> dict[str, Metric]:
    """The few metrics of a task that tables of several runs have: the monitored one by default, accuracy, F1, loss."""
    return named_metrics(registry, (task.monitor, *(name for name in MAIN if name in task.metrics)))


def run_metrics(resolved: Resolved, task: Task, classes: int) -> dict[str, Metric]:
    """The metrics that a run records, by name: the default ones, the monitored one, and those that its config lists.

    Raises:
        RequestError: As in `named_metrics`, or a metric isn't defined for the task.
    """
    config = resolved.config
    listed = dict(zip((choice.name for choice in config.metrics), build(resolved, "metrics"), strict=True))
    monitor = task.monitor if config.monitor == AUTO else config.monitor
    monitored = named_metrics(resolved.registry, [monitor], resolved.where("monitor"))
    check_task(monitored, task, resolved.where("monitor"))
    check_task(listed, task, resolved.where("metrics"))
    return {**default_metrics(resolved.registry, task, classes), **monitored, **listed}


def named_metrics(registry: Registry, names: Iterable[str], where: str = "") -> dict[str, Metric]:
    """Metrics by name.

    Args:
        where: How messages call the setting that gives the names.

    Raises:
        RequestError: A name is unknown, with the nearest one, or its class can't be made without arguments.
    """
    found = {}
    for name in dict.fromkeys(names):
        cls = registry.metrics.get(name, where)
        try:
            found[name] = cls()
        except TypeError as error:
            raise RequestError(f"metric {name!r} can't be used: {one_line(str(error))}") from error
    return found


def check_task(metrics: Mapping[str, Metric], task: Task, where: str) -> None:
    """Check that metrics are defined for a task.

    Args:
        where: How messages call the setting that gives the names.

    Raises:
        RequestError: One isn't.
    """
    for name, metric in metrics.items():
        if task.name not in metric.tasks:
            raise RequestError(
                f"{where}: metric {name!r} isn't defined for task {task.name}",
                f"choose one of {', '.join(task.metrics)}",
            )


def undefined(metric: Metric, task: str, support: Sequence[int], images: int, classes: Sequence[str]) -> str:
    """Why a metric has no value for such targets, in one clause; args as in `Metric.undefined`."""
    if task not in metric.tasks:
        return f"it isn't defined for task {task}"
    if len(classes) < metric.min_classes:
        return f"it needs {metric.min_classes} classes or more, and there are {len(classes)}"
    return metric.undefined(support, images, classes)


def check_defined(
    metrics: Mapping[str, Metric],
    task: str,
    support: Sequence[int],
    images: int,
    classes: Sequence[str],
    where: str,
    what: str,
) -> None:
    """Check that metrics that were asked for have a value on the images.

    Args:
        task: Name of the task.
        support: Number of images of each class.
        images: Number of images.
        where: How messages call the setting.
        what: How messages call the images, such as `validation images`.

    Raises:
        RequestError: One has none; the message gives the reason.
    """
    for name, metric in metrics.items():
        reason = undefined(metric, task, support, images, classes)
        if reason:
            raise RequestError(
                f"{where}: {name} is undefined for the {what}: {one_line(reason)}", "choose another metric"
            )


def is_better_or_equal_with_lower_loss(
    one: tuple[float | None, float], best: tuple[float | None, float], lower_is_better: bool
) -> bool:
    """Whether a metric and a loss are better than the best so far: by the metric, or of equal metrics by the loss.

    Args:
        one, best: The metric, None where it is undefined, and the loss.
    """
    (value, loss), (known, least) = one, best
    return is_better(math.nan if value is None else value, known, lower_is_better) or (
        value is not None and value == known and loss < least
    )


def is_better(value: float, best: float | None, lower_is_better: bool) -> bool:
    """Whether a value of a metric is better than the best so far; any value is better than one that isn't finite."""
    # Records hold null for NaN and infinities alike, and a resumed run must not tell them apart.
    if best is None or not math.isfinite(best):
        return True
    return value < best if lower_is_better else value > best
