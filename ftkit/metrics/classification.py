"""How good a set of predictions is: the metrics that runs are compared by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from ftkit.errors import plural
from ftkit.files.json_text import replace_nonfinite
from ftkit.metrics.names import NOT_FINITE, TOP, no_auroc
from ftkit.metrics.outputs import Array, Rows, areas, rows_of

BINS = 15
"""Of equal width, in which confidence and accuracy are compared."""
BELOW_ONE = 1 - 2**-24
"""The greatest float32 below 1."""
LARGEST_MATRIX = 1000
"""Classes up to which JSON has the whole confusion matrix; beyond, the pairs in it that aren't zero."""


@dataclass(frozen=True)
class ClassScores:
    """One class against all others. What would divide by zero is 0, as scikit-learn has it.

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

    An image whose outputs are not finite has no prediction: it counts as wrong in what counts images, and what is
    made of probabilities is NaN then.

    Attributes:
        loss: Mean cross entropy.
        accuracy: Part of the images whose class is the likeliest one.
        top5: Part of the images whose class is among the five likeliest; None with five classes or fewer,
            where it would be 1 whatever the model does.
        macro_f1: Mean F1 over the classes that the labels have. A class without an image says nothing of
            the model, and counting it as 0 would make small test sets look bad.
        weighted_f1: Mean F1 over the images, each counted with the F1 of its class.
        auroc: Mean over the classes of the area under the ROC curve of one class against all others, by
            softmax probability; None where a class has no such curve.
        calibration_error: Mean distance between how sure the model is of its answers and how often they are
            right, over bins of confidence weighted by their images.
        missing: Why a metric that could be had on other data or of another model is None or not finite, by name.
        classes: Names in label order.
        support, predicted, right: Images of each class; images taken for it; those taken for it rightly; int64
            `(classes,)`.
        pairs: The confusion matrix without its zeros: true label, predicted label and number of images, int64
            `(m, 3)`, ascending.
    """

    loss: float
    accuracy: float
    top5: float | None
    macro_f1: float
    weighted_f1: float
    auroc: float | None
    calibration_error: float
    classes: tuple[str, ...]
    support: Array
    predicted: Array
    right: Array
    pairs: Array
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def images(self) -> int:
        return int(self.support.sum())

    @property
    def summary(self) -> dict[str, float | None]:
        """The metrics that a run is judged by, as `--monitor` calls them, less a top-5 that says nothing."""
        metrics = {
            "loss": self.loss,
            "accuracy": self.accuracy,
            "top5": self.top5,
            "macro_f1": self.macro_f1,
            "weighted_f1": self.weighted_f1,
            "auroc": self.auroc,
            "calibration_error": self.calibration_error,
        }
        return {name: value for name, value in metrics.items() if name != "top5" or value is not None}

    @cached_property
    def per_class(self) -> tuple[ClassScores, ...]:
        """In label order; made when it is asked for."""
        columns = (*_rates(self.support, self.predicted, self.right), self.support)
        rows = zip(self.classes, *(column.tolist() for column in columns), strict=True)
        return tuple(ClassScores(*row) for row in rows)

    @property
    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """`confusion[i][j]` images of class i were taken for class j. As large as the classes squared."""
        matrix = np.zeros((len(self.classes),) * 2, dtype=np.int64)
        matrix[self.pairs[:, 0], self.pairs[:, 1]] = self.pairs[:, 2]
        return tuple(map(tuple, matrix.tolist()))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a metric that is missing or isn't finite is null.

        With more than `LARGEST_MATRIX` classes, `confusion` is null, and `confusion_pairs` has what isn't zero in it.
        """
        found = {
            "images": self.images,
            **replace_nonfinite(self.summary),
            "missing": dict(self.missing),
            "classes": [asdict(c) for c in self.per_class],
        }
        if len(self.classes) > LARGEST_MATRIX:
            return {**found, "confusion": None, "confusion_pairs": self.pairs.tolist()}
        return {**found, "confusion": [list(row) for row in self.confusion]}


def evaluate_outputs(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> Evaluation:
    """The metrics for `(n, classes)` logits and `(n,)` labels; n is 1 or more.

    Time and memory grow with the logits, not with the square of the classes.
    """
    rows = rows_of(logits, labels)
    support, right = (np.bincount(part, minlength=len(classes)) for part in (rows.labels, rows.labels[rows.right]))
    predicted = np.bincount(rows.predicted[rows.predicted >= 0], minlength=len(classes))
    f1 = _rates(support, predicted, right)[2]
    missing = _missing(rows, classes)
    return Evaluation(
        loss=float(rows.loss.mean()),
        accuracy=int(right.sum()) / len(labels),
        top5=int(rows.in_top.sum()) / len(labels) if len(classes) > TOP else None,
        macro_f1=float(f1[support > 0].mean()),
        weighted_f1=float(f1 @ support) / len(labels),
        auroc=None if "auroc" in missing else float(areas(logits, rows).mean()),
        calibration_error=math.nan if rows.unusable else calibration_error(rows),
        classes=tuple(classes),
        support=support,
        predicted=predicted,
        right=right,
        pairs=_pairs(rows),
        missing=missing,
    )


def calibration_error(rows: Rows) -> float:
    """The expected calibration error by the L1 norm, over bins of equal width."""
    gaps = np.bincount(confidence_bins(rows), rows.confidence.clip(max=BELOW_ONE) - rows.right, BINS)
    return float(np.abs(gaps).sum() / len(rows.labels))


def confidence_bins(rows: Rows) -> Array:
    """The bin of each image; a confidence of exactly 1 shares the uppermost one."""
    return np.asarray(np.digitize(rows.confidence.clip(max=BELOW_ONE), np.linspace(0, 1, BINS + 1)) - 1)


def _rates(support: Array, predicted: Array, right: Array) -> tuple[Array, Array, Array]:
    """Precision, recall and F1 of each class, from counts and so exact to the last digit of double precision."""
    return right / predicted.clip(min=1), right / support.clip(min=1), 2 * right / (support + predicted).clip(min=1)


def _pairs(rows: Rows) -> Array:
    there = rows.predicted >= 0
    found, counts = np.unique(rows.labels[there] * rows.classes + rows.predicted[there], return_counts=True)
    return np.stack([found // rows.classes, found % rows.classes, counts], axis=1)


def _missing(rows: Rows, classes: Sequence[str]) -> dict[str, str]:
    """Why metrics can't be had, by name."""
    if rows.unusable:
        reason = f"{NOT_FINITE} for {rows.unusable:,} of {plural(len(rows.labels), 'image')}"
        return dict.fromkeys(("loss", "auroc", "calibration_error"), reason)
    never = int(np.isinf(rows.loss).sum())
    found = {"loss": f"the true class of {plural(never, 'image')} has the probability 0"} if never else {}
    reason = no_auroc(rows.labels.tolist(), classes)
    return {**found, "auroc": reason} if reason else found
