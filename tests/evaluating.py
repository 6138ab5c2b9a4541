"""Evaluation of logits by the default metrics, for tests."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ftkit.api import Metric, MulticlassOutputs, MultilabelOutputs, Task
from ftkit.metrics.report import Evaluation, evaluate_outputs
from ftkit.metrics.selection import default_metrics, named_metrics
from tests.models import REGISTRY, part


def evaluate(logits: Tensor, targets: Tensor, classes: Sequence[str]) -> Evaluation:
    """The evaluation by the default metrics: targets are class indices `(n,)`, or label sets, bool `(n, classes)`."""
    kind = MultilabelOutputs if targets.ndim == 2 else MulticlassOutputs
    metrics = default_metrics(REGISTRY, task_named(kind.task), len(classes))
    return evaluate_outputs(kind(logits, targets, classes), metrics)


def task_named(name: str) -> Task:
    """A task with its default options."""
    task: Task = part("tasks", name)()
    return task


def metrics_named(*names: str) -> dict[str, Metric]:
    return named_metrics(REGISTRY, names)
