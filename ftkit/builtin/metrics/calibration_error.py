"""The expected calibration error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ftkit.api import Metric, MulticlassOutputs, hookimpl
from ftkit.builtin.metrics.group_sums import sums_by_group

if TYPE_CHECKING:
    from ftkit.api import Array, Outputs, Resampler

BINS = 15
"""Bins of equal width in which confidence and accuracy are compared."""
BELOW_ONE = 1 - 2**-24
"""The greatest float32 below 1; a confidence of exactly 1 counts in the uppermost bin."""


@hookimpl
def ftkit_metrics() -> Mapping[str, type[Metric]]:
    return {"calibration_error": CalibrationError}


class CalibrationError(Metric):
    """Mean distance between confidence and accuracy, by the L1 norm, over bins weighted with their images.

    With several labels per image, the confidence is the probability of a class, and each pair of an image and a class
    counts once: the distance is that between probability and frequency.

    Resamples have a greater error than the images themselves, so a bootstrap interval would be biased.
    """

    label = "calibration error"
    lower_is_better = True
    tasks = ("multiclass", "multilabel")
    resampled = False

    def value(self, outputs: Outputs) -> float:
        import numpy as np

        _, bins, gaps = confidence_bins(outputs)
        return float(np.abs(np.bincount(bins, gaps, BINS)).sum() / len(bins))

    def resampler(self, outputs: Outputs) -> Resampler:
        import numpy as np

        images, bins, gaps = confidence_bins(outputs)
        sums = sums_by_group(images, bins, (len(outputs), BINS), gaps)
        return lambda counts: np.asarray(np.abs(counts @ sums).sum(axis=1) / len(bins))


def confidence_bins(outputs: Outputs) -> tuple[Array, Array, Array]:
    """The image, the bin, and the confidence less whether it is right, of each confidence, `(m,)` each."""
    import numpy as np

    if isinstance(outputs, MulticlassOutputs):
        images, confidence, right = np.arange(len(outputs)), outputs.confidence, outputs.right
    else:
        images = np.repeat(np.arange(len(outputs)), len(outputs.classes))
        confidence, right = outputs.scores.ravel(), outputs.targets.ravel()
    bins = np.digitize(confidence.clip(max=BELOW_ONE), np.linspace(0, 1, BINS + 1)) - 1
    return images, bins, confidence.clip(max=BELOW_ONE) - right
