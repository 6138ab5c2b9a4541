"""Which metrics are computed: the default ones of a task, and others by name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ftkit.config.load import Resolved, build
from ftkit.errors import RequestError, one_line
from ftkit.parts.metric import Metric
from ftkit.plugins import Registry

DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "multiclass": ("accuracy", "top5", "macro_f1", "weighted_f1", "auroc", "calibration_error", "loss"),
    "multilabel": ("map", "micro_f1", "macro_f1", "subset_accuracy", "auroc", "loss"),
}
"""The metrics that are computed for each task, in the order of tables; those with too few classes are left out."""


def default_metrics(registry: Registry, classes: int, task: str = "multiclass") -> dict[str, Metric]:
    """The default metrics of a task that depend on the model with so many classes, by name."""
    metrics = named_metrics(registry, DEFAULTS[task])
    return {name: metric for name, metric in metrics.items() if classes >= metric.min_classes}


def run_metrics(resolved: Resolved, classes: int) -> dict[str, Metric]:
    """The metrics that a run records, by name: the default ones, the monitored one, and those that its config lists.

    Raises:
        RequestError: As in `named_metrics`.
    """
    config = resolved.config
    listed = dict(zip((choice.name for choice in config.metrics), build(resolved, "metrics"), strict=True))
    monitored = named_metrics(resolved.registry, [config.monitor], resolved.where("monitor"))
    return {**default_metrics(resolved.registry, classes), **monitored, **listed}


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


def undefined(metric: Metric, support: Sequence[int], images: int, classes: Sequence[str]) -> str:
    """Why a metric has no value for such targets, in one clause; args as in `Metric.undefined`."""
    if len(classes) < metric.min_classes:
        return f"it needs {metric.min_classes} classes or more, and there are {len(classes)}"
    return metric.undefined(support, images, classes)


def check_defined(
    metrics: Mapping[str, Metric], labels: Iterable[int], classes: Sequence[str], where: str, what: str
) -> None:
    """Check that metrics that were asked for have a value on the images.

    Args:
        labels: Class indices of the images.
        where: How messages call the setting.
        what: How messages call the images, such as `validation images`.

    Raises:
        RequestError: One has none; the message gives the reason.
    """
    counts = Counter(labels)
    support = [counts[label] for label in range(len(classes))]
    for name, metric in metrics.items():
        reason = undefined(metric, support, counts.total(), classes)
        if reason:
            raise RequestError(
                f"{where}: {name} is undefined for the {what}: {one_line(reason)}", "choose another metric"
            )


def is_better(value: float, best: float | None, lower_is_better: bool) -> bool:
    """Whether a value of a metric is better than the best so far; any value is better than one that isn't finite."""
    # Records hold null for NaN and infinities alike, and a resumed run must not tell them apart.
    if best is None or not math.isfinite(best):
        return True
    return value < best if lower_is_better else value > best
