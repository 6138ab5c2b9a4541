"""The evaluation of a split: values of metrics, and the numbers of each class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ftkit.errors import plural
from ftkit.files.json_text import replace_nonfinite
from ftkit.metrics.finite_outputs import NOT_FINITE
from ftkit.metrics.multiclass_outputs import MulticlassOutputs
from ftkit.metrics.multilabel_outputs import MultilabelOutputs
from ftkit.metrics.outputs import Outputs
from ftkit.metrics.selection import undefined
from ftkit.parts.metric import Array, Metric, UndefinedMetricError

LARGEST_MATRIX = 1000
"""Classes up to which JSON has the whole confusion matrix; with more, it has the entries that aren't zero."""


@dataclass(frozen=True)
class ClassScores:
    """One class against all others. What would divide by zero is 0, as in scikit-learn.

    Attributes:
        support: Number of images of the class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics of one split.

    Attributes:
        values: The metrics by name; None for one that is undefined.
        missing: Why a metric is undefined, by name.
        images: Number of images.
        classes: Names in label order.
        support, predicted, right: Number of images of each class, of images that it is predicted for, and of those
            that it is rightly predicted for; int64 `(classes,)`.
        pairs: The entries of the confusion matrix that aren't zero: true label, predicted label and number of images,
            int64 `(m, 3)`, ascending. Empty where an image may have several labels.
        average_precision: The average precision of each class, float64 `(classes,)`; None where each image has one
            label.
        thresholds: The probability above which each class is predicted; None where each image has one label.
    """

    values: Mapping[str, float | None]
    missing: Mapping[str, str]
    images: int
    classes: tuple[str, ...]
    support: Array
    predicted: Array
    right: Array
    pairs: Array
    average_precision: Array | None = None
    thresholds: tuple[float, ...] | None = None

    @cached_property
    def per_class(self) -> tuple[ClassScores, ...]:
        """In label order."""
        columns = (
            self.right / self.predicted.clip(min=1),
            self.right / self.support.clip(min=1),
            2 * self.right / (self.support + self.predicted).clip(min=1),
            self.support,
        )
        rows = zip(self.classes, *(column.tolist() for column in columns), strict=True)
        return tuple(ClassScores(*row) for row in rows)

    @property
    def has_confusion(self) -> bool:
        """Whether each image has one label, so that there is a confusion matrix."""
        return self.average_precision is None

    @property
    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """`confusion[i][j]` images of class i were predicted as class j. It has as many entries as classes squared."""
        matrix = np.zeros((len(self.classes),) * 2, dtype=np.int64)
        matrix[self.pairs[:, 0], self.pairs[:, 1]] = self.pairs[:, 2]
        return tuple(map(tuple, matrix.tolist()))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; an undefined metric is null.

        With more than `LARGEST_MATRIX` classes, `confusion` is null, and `confusion_pairs` has what isn't zero in it.
        """
        classes = [asdict(scores) for scores in self.per_class]
        if self.average_precision is not None and self.thresholds is not None:
            rows = zip(classes, self.average_precision.tolist(), self.thresholds, strict=True)
            classes = [
                row | {"average_precision": replace_nonfinite(precision), "threshold": threshold}
                for row, precision, threshold in rows
            ]
        found = {"images": self.images, **self.values, "missing": dict(self.missing), "classes": classes}
        if not self.has_confusion:
            return found
        if len(self.classes) > LARGEST_MATRIX:
            return {**found, "confusion": None, "confusion_pairs": self.pairs.tolist()}
        return {**found, "confusion": [list(row) for row in self.confusion]}


def evaluate_outputs(outputs: Outputs, metrics: Mapping[str, Metric]) -> Evaluation:
    """Evaluate one image or more.

    Time and memory grow with the logits, not with the square of the classes.

    Args:
        metrics: The metrics by name.
    """
    values, missing = dict[str, float | None](), dict[str, str]()
    for name, metric in metrics.items():
        values[name], reason = metric_value(metric, outputs)
        if reason:
            missing[name] = reason
    multilabel = outputs if isinstance(outputs, MultilabelOutputs) else None
    return Evaluation(
        values=values,
        missing=missing,
        images=len(outputs),
        classes=outputs.classes,
        support=outputs.support,
        predicted=outputs.predicted_counts,
        right=outputs.right_counts,
        pairs=_confusion_pairs(outputs) if isinstance(outputs, MulticlassOutputs) else np.empty((0, 3), dtype=np.int64),
        average_precision=multilabel.average_precision if multilabel else None,
        thresholds=multilabel.thresholds if multilabel else None,
    )


def metric_value(metric: Metric, outputs: Outputs) -> tuple[float | None, str]:
    """The metric, or None and the reason why it has no value."""
    unusable = int((~outputs.finite).sum())
    if unusable and metric.needs == "scores":
        return None, f"{NOT_FINITE} for {unusable:,} of {plural(len(outputs), 'image')}"
    reason = undefined(metric, outputs.task, outputs.support.tolist(), len(outputs), outputs.classes)
    if reason:
        return None, reason
    try:
        value = float(metric.value(outputs))
    except UndefinedMetricError as error:
        return None, str(error)
    return (value, "") if math.isfinite(value) else (None, f"its value is {value}")


def _confusion_pairs(outputs: MulticlassOutputs) -> Array:
    images, predicted = outputs.pairs("predicted")
    size = len(outputs.classes)
    found, counts = np.unique(outputs.targets[images] * size + predicted, return_counts=True)
    return np.stack([found // size, found % size, counts], axis=1)
