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

    Resamples have a greater error than the images themselves, so a bootstrap interval would be biased.
    """

    label = "calibration error"
    lower_is_better = True
    resampled = False

    def value(self, outputs: Outputs) -> float:
        import numpy as np

        bins, gaps = confidence_bins(outputs)
        return float(np.abs(np.bincount(bins, gaps, BINS)).sum() / len(outputs))

    def resampler(self, outputs: Outputs) -> Resampler:
        import numpy as np

        bins, gaps = confidence_bins(outputs)
        sums = sums_by_group(np.arange(len(bins)), bins, (len(bins), BINS), gaps)
        return lambda counts: np.asarray(np.abs(counts @ sums).sum(axis=1) / len(bins))


def confidence_bins(outputs: Outputs) -> tuple[Array, Array]:
    """The bin of each image, int64 `(n,)`, and its confidence less whether it is right, float64 `(n,)`."""
    import numpy as np

    assert isinstance(outputs, MulticlassOutputs), "of no other task"
    confidence = outputs.confidence.clip(max=BELOW_ONE)
    return np.digitize(confidence, np.linspace(0, 1, BINS + 1)) - 1, confidence - outputs.right
