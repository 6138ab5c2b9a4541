"""Metrics of how each class ranks the images: AUROC, and mean average precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ftkit.api import Metric, MultilabelOutputs, hookimpl
from ftkit.builtin.metrics.group_sums import sums_by_group

if TYPE_CHECKING:
    from ftkit.api import Array, Outputs, Resampler

FEW = 12
"""Images of a class up to which each is compared with all others, which is faster than sorting."""


@hookimpl
def ftkit_metrics() -> Mapping[str, type[Metric]]:
    return {"auroc": Auroc, "map": MeanAveragePrecision}


class Auroc(Metric):
    """Mean over the classes of the area under the ROC curve of one class against all others.

    The area is how often an image of the class has a higher score than another image, ties counting half.
    """

    label = "AUROC"
    tasks = ("multiclass", "multilabel")
    resampled = False

    def undefined(self, support: Sequence[int], images: int, classes: Sequence[str]) -> str:
        return _whole_class(support, images, classes) or _missing_classes(support, classes)

    def value(self, outputs: Outputs) -> float:
        return float(self.areas(outputs).mean())

    def areas(self, outputs: Outputs) -> Array:
        """The area of each class, float64 `(classes,)`; NaN for a class with no image or all of them."""
        import numpy as np

        found = np.full(len(outputs.classes), np.nan)
        for label, scores in outputs.columns():
            positive = scores[outputs.members[label]]
            pairs = len(positive) * (len(outputs) - len(positive))
            if pairs:
                # Pairs within the class are in it once in either order, and each image with itself as a tie.
                found[label] = (_above(positive, scores) - len(positive) ** 2 / 2) / pairs
        return found

    def resampler(self, outputs: Outputs) -> Resampler:
        """A resample without an image of some class has no value, which with many classes holds for most."""
        return _mean_over_classes(outputs, _area, require_all=True)


class MeanAveragePrecision(Metric):
    """Mean of the average precision over the classes that the targets have."""

    label = "mAP"
    tasks = ("multilabel",)

    def undefined(self, support: Sequence[int], images: int, classes: Sequence[str]) -> str:
        return "" if any(support) else "no image has a label"

    def value(self, outputs: Outputs) -> float:
        import numpy as np

        assert isinstance(outputs, MultilabelOutputs), "of no other task"
        return float(np.nanmean(outputs.average_precision))

    def resampler(self, outputs: Outputs) -> Resampler:
        return _mean_over_classes(outputs, _average_precision, require_all=False)


def _missing_classes(support: Sequence[int], classes: Sequence[str]) -> str:
    missing = [name for name, count in zip(classes, support, strict=True) if not count]
    more = f", nor of {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"no image is of class {missing[0]!r}{more}" if missing else ""


def _whole_class(support: Sequence[int], images: int, classes: Sequence[str]) -> str:
    whole = [name for name, count in zip(classes, support, strict=True) if count == images]
    return f"all images are of class {whole[0]!r}" if whole else ""


def _above(positive: Array, scores: Array) -> float:
    """Over each of `positive`: how many of `scores` are below it, and half of those that are equal."""
    import numpy as np

    if len(positive) <= FEW:
        below, equal = (sum(np.count_nonzero(way(scores, one)) for one in positive) for way in (np.less, np.equal))
        return below + equal / 2
    ranked = np.sort(scores)
    left, right = (int(ranked.searchsorted(positive, side).sum()) for side in ("left", "right"))
    return (left + right) / 2


def _mean_over_classes(outputs: Outputs, of_class: Callable[[Array, Array], Array], require_all: bool) -> Resampler:
    """The mean over classes of a function of the images by ascending score, with and without the class."""
    import numpy as np

    def resample(counts: Array) -> Array:
        found = np.full(len(counts), np.nan)
        there = np.array([(counts[:, each] > 0).any(axis=1) for each in outputs.members])
        some = there.all(axis=0) if require_all else there.any(axis=0)
        if some.any():
            values = []
            for label, scores in outputs.columns():
                positive = np.zeros(len(scores), dtype=bool)
                positive[outputs.members[label]] = True
                _, ranks = np.unique(scores, return_inverse=True)
                images, shape = np.arange(len(scores)), (len(scores), int(ranks.max()) + 1)
                yes, no = (sums_by_group(images, ranks, shape, each) for each in (positive, ~positive))
                values.append(of_class(counts[some] @ yes, counts[some] @ no))
            found[some] = np.mean(values, axis=0) if require_all else np.nanmean(values, axis=0)
        return found

    return resample


def _area(yes: Array, no: Array) -> Array:
    """Area under the ROC curve from counts `(resamples, levels)`, levels by ascending score; NaN without a pair."""
    import numpy as np

    pairs = yes.sum(axis=1) * no.sum(axis=1)
    won = (yes * (no.cumsum(axis=1) - no / 2)).sum(axis=1)
    return np.asarray(np.where(pairs > 0, won / np.maximum(pairs, 1), np.nan))


def _average_precision(yes: Array, no: Array) -> Array:
    """Average precision from counts `(resamples, levels)`, levels by ascending score; NaN without an image."""
    import numpy as np

    right = yes[:, ::-1].cumsum(axis=1)
    at_least = right + no[:, ::-1].cumsum(axis=1)
    total = yes.sum(axis=1)
    gained = (yes[:, ::-1] * right / np.maximum(at_least, 1)).sum(axis=1)
    return np.asarray(np.where(total > 0, gained / np.maximum(total, 1), np.nan))
