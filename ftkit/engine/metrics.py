"""How good a set of predictions is: the figures that runs are compared by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional


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
        macro_f1: Mean F1 over the classes that the labels have. A class without an image says nothing of
            the model, and counting it as 0 would make small test sets look bad.
        per_class: In label order.
        confusion: `confusion[i][j]` images of class i were taken for class j.
    """

    loss: float
    accuracy: float
    macro_f1: float
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def images(self) -> int:
        return sum(c.support for c in self.per_class)

    @property
    def summary(self) -> dict[str, float]:
        """The figures that a run is judged by, as `--monitor` calls them."""
        return {"loss": self.loss, "accuracy": self.accuracy, "macro_f1": self.macro_f1}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a loss that isn't a number is null."""
        return {
            "images": self.images,
            **{name: value if math.isfinite(value) else None for name, value in self.summary.items()},
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
    return Scores(
        loss=float(functional.cross_entropy(logits.double(), labels)),
        accuracy=sum(confusion[i][i] for i in range(len(classes))) / len(labels),
        macro_f1=sum(present) / len(present),
        per_class=per_class,
        confusion=confusion,
    )


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
