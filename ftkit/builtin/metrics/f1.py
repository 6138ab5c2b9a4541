"""Means of F1 over classes, over images, and over all predictions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from ftkit.api import Metric, hookimpl
from ftkit.builtin.metrics.group_sums import sums_by_group

if TYPE_CHECKING:
    from ftkit.api import Array, Outputs, Resampler


@hookimpl
def ftkit_metrics() -> Mapping[str, type[Metric]]:
    return {"macro_f1": MacroF1, "weighted_f1": WeightedF1, "micro_f1": MicroF1}


class _MeanF1(Metric):
    """A function of the counts of each class: its images, its predictions, and the right ones among these."""

    needs = "predictions"
    tasks: ClassVar[tuple[str, ...]] = ("multiclass", "multilabel")

    def undefined(self, support: Sequence[int], images: int, classes: Sequence[str]) -> str:
        return "" if any(support) else "no image has a label"

    @abstractmethod
    def mean(self, support: Array, predicted: Array, right: Array) -> Array:
        """The metric from counts float64 `(resamples, classes)`, float64 `(resamples,)`."""

    def resampler(self, outputs: Outputs) -> Resampler:
        import numpy as np

        pairs = [outputs.pairs("targets"), outputs.pairs("predicted"), outputs.pairs("right")]
        # Classes without an image and without a prediction add nothing to any mean.
        seen = np.unique(np.concatenate([labels for _, labels in pairs]))
        shape = (len(outputs), len(seen))
        sums = [sums_by_group(images, seen.searchsorted(labels), shape) for images, labels in pairs]
        return lambda counts: self.mean(*(counts @ each for each in sums))


class MacroF1(_MeanF1):
    """Mean F1 over the classes that the targets have.

    A class without an image doesn't depend on the model, and counted as 0 it would lower the mean of small splits.
    """

    label = "macro F1"

    def value(self, outputs: Outputs) -> float:
        return float(outputs.f1[outputs.support > 0].mean())

    def mean(self, support: Array, predicted: Array, right: Array) -> Array:
        import numpy as np

        f1 = 2 * right / np.maximum(support + predicted, 1)
        present = (support > 0).sum(axis=1)
        # Resamples of images with several labels may have no label at all.
        return np.asarray(np.where(present > 0, f1.sum(axis=1) / np.maximum(present, 1), np.nan))


class WeightedF1(_MeanF1):
    """Mean F1 over the classes, each weighted with the number of its images."""

    label = "weighted F1"

    def value(self, outputs: Outputs) -> float:
        return float(outputs.f1 @ outputs.support) / int(outputs.support.sum())

    def mean(self, support: Array, predicted: Array, right: Array) -> Array:
        import numpy as np

        f1 = 2 * right / np.maximum(support + predicted, 1)
        total = support.sum(axis=1)
        return np.asarray(np.where(total > 0, (f1 * support).sum(axis=1) / np.maximum(total, 1), np.nan))


class MicroF1(_MeanF1):
    """F1 of the predictions of all classes together."""

    label = "micro F1"
    tasks = ("multilabel",)

    def value(self, outputs: Outputs) -> float:
        total = int(outputs.support.sum() + outputs.predicted_counts.sum())
        return 2 * int(outputs.right_counts.sum()) / max(total, 1)

    def mean(self, support: Array, predicted: Array, right: Array) -> Array:
        import numpy as np

        return np.asarray(2 * right.sum(axis=1) / np.maximum((support + predicted).sum(axis=1), 1))
