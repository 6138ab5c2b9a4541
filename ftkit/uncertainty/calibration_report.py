"""The calibration error of outputs, with and without the model's calibration."""

from __future__ import annotations

import numpy as np

from ftkit.metrics.bootstrap import CONFIDENCE, MOST_RESAMPLED, RESAMPLES, resampled
from ftkit.metrics.outputs import Outputs
from ftkit.parts.metric import Array, Metric
from ftkit.uncertainty.calibration import Bounds, CalibrationErrors


def calibration_errors(
    outputs: Outputs,
    uncalibrated: Outputs | None,
    error: Metric,
    resamples: int = RESAMPLES,
    most: int = MOST_RESAMPLED,
) -> CalibrationErrors:
    """The calibration errors of outputs.

    Args:
        outputs: Finite for each image, as the others are.
        uncalibrated: For the same images.
        error: The metric of the calibration error.
        most: Images up to which the intervals are computed.
    """
    value = error.value(outputs)
    before = None if uncalibrated is None else error.value(uncalibrated)
    if len(outputs) > most:
        return CalibrationErrors(value, before)
    draws = resampled(outputs, {"error": error}, resamples=resamples)["error"]
    own = pivotal_interval(value, draws)
    if uncalibrated is None or before is None:
        return CalibrationErrors(value, None, own)
    others = resampled(uncalibrated, {"error": error}, resamples=resamples)["error"]
    change = pivotal_interval(value - before, draws - others, -1.0)
    return CalibrationErrors(value, before, own, pivotal_interval(before, others), change)


def pivotal_interval(value: float, draws: Array, lowest: float = 0.0) -> Bounds:
    """The basic bootstrap interval of 95 %: the value less the deviations of the resamples from it.

    Resamples have a greater calibration error than the images, as these have a greater one than all images would have;
    the middle of the resamples' own values would count that bias twice (Davison and Hinkley, Bootstrap Methods, 1997).

    Args:
        value: Of the images.
        draws: Of the resamples.
        lowest: The smallest value that is possible.
    """
    low, high = np.quantile(draws, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return max(lowest, float(2 * value - high)), max(lowest, float(2 * value - low))
