"""How good a set of predictions is: the figures that runs are compared by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor
from torch.nn import functional

from ftkit.spec.figures import TOP, no_auroc

BINS = 15
"""Of equal width, in which confidence and accuracy are compared."""
BELOW_ONE = 1 - 2**-24
"""The greatest float32 below 1."""


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


@dataclass(frozen=True)
class Scores:
    """Figures of one split.

    Attributes:
        loss: Mean cross entropy; not a number where the model's outputs aren't.
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
        missing: Why a figure that could be had on other data is None, by name.
        per_class: In label order.
        confusion: `confusion[i][j]` images of class i were taken for class j.
    """

    loss: float
    accuracy: float
    top5: float | None
    macro_f1: float
    weighted_f1: float
    auroc: float | None
    calibration_error: float
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def images(self) -> int:
        return sum(c.support for c in self.per_class)

    @property
    def summary(self) -> dict[str, float | None]:
        """The figures that a run is judged by, as `--monitor` calls them, less a top-5 that says nothing."""
        figures = {
            "loss": self.loss,
            "accuracy": self.accuracy,
            "top5": self.top5,
            "macro_f1": self.macro_f1,
            "weighted_f1": self.weighted_f1,
            "auroc": self.auroc,
            "calibration_error": self.calibration_error,
        }
        return {name: value for name, value in figures.items() if name != "top5" or value is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a figure that is missing or isn't a number is null."""
        return {
            "images": self.images,
            **{n: v if v is not None and math.isfinite(v) else None for n, v in self.summary.items()},
            "missing": dict(self.missing),
            "classes": [asdict(c) for c in self.per_class],
            "confusion": [list(row) for row in self.confusion],
        }


def score(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> Scores:
    """The figures for `(n, classes)` logits and `(n,)` labels; n is 1 or more.

    Images are counted with torchmetrics; rates are taken from the counts in double precision, since its
    own are single, in which 1627 of 2000 is 0.8134999871253967.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    counts = multiclass_confusion_matrix(logits.argmax(dim=1), labels, num_classes=len(classes)).tolist()
    confusion = tuple(tuple(int(n) for n in row) for row in counts)
    per_class = tuple(_class_scores(name, i, confusion) for i, name in enumerate(classes))
    present = [c.f1 for c in per_class if c.support]
    # In single precision, answers that a sure model ranks apart would tie at 1.
    probabilities = logits.double().softmax(dim=1)
    reason = no_auroc(labels.tolist(), classes)
    return Scores(
        loss=float(functional.cross_entropy(logits.double(), labels)),
        accuracy=sum(confusion[i][i] for i in range(len(classes))) / len(labels),
        top5=_top5(logits, labels),
        macro_f1=sum(present) / len(present),
        weighted_f1=sum(c.f1 * c.support for c in per_class) / len(labels),
        auroc=None if reason else _auroc(probabilities, labels),
        calibration_error=_calibration_error(probabilities, labels),
        per_class=per_class,
        confusion=confusion,
        missing={"auroc": reason} if reason else {},
    )


def _top5(logits: Tensor, labels: Tensor) -> float | None:
    from torchmetrics.functional.classification import multiclass_stat_scores

    classes = logits.shape[1]
    if classes <= TOP:
        return None
    counts = multiclass_stat_scores(
        logits, labels, num_classes=classes, average="micro", top_k=TOP, validate_args=False
    )
    return int(counts[0]) / len(labels)


def _auroc(probabilities: Tensor, labels: Tensor) -> float:
    from torchmetrics.functional.classification import multiclass_auroc

    if not probabilities.isfinite().all():
        return math.nan
    # It adds areas up in single precision, and may come out a little above 1.
    return min(1.0, float(multiclass_auroc(probabilities, labels, probabilities.shape[1], validate_args=False)))


def _calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    from torchmetrics.functional.classification import multiclass_calibration_error

    if not probabilities.isfinite().all():
        return math.nan
    # It would put a confidence of exactly 1 into a bin of its own beside the 15.
    below = probabilities.clamp(max=BELOW_ONE)
    return float(multiclass_calibration_error(below, labels, probabilities.shape[1], BINS, "l1", validate_args=False))


def _class_scores(name: str, index: int, confusion: tuple[tuple[int, ...], ...]) -> ClassScores:
    right = confusion[index][index]
    support = sum(confusion[index])
    predicted = sum(row[index] for row in confusion)
    return ClassScores(
        name=name,
        precision=right / predicted if predicted else 0.0,
        recall=right / support if support else 0.0,
        f1=2 * right / (support + predicted) if right else 0.0,
        support=support,
    )
