"""The calibration of a run's model, as its config asks for it."""

from __future__ import annotations

from torch import Tensor

from ftkit.metrics.selection import named_metrics
from ftkit.planning.run_plan import Plan
from ftkit.uncertainty.calibration import Calibration
from ftkit.uncertainty.calibration_fit import CalibrationSample, calibration_sample, fit_calibration


def sample_of_run(plan: Plan, logits: Tensor, targets: Tensor) -> CalibrationSample | None:
    """What to keep of the outputs of an epoch, in case that it is the best; None where nothing is calibrated."""
    if plan.config.calibration == "off":
        return None
    return calibration_sample(logits, targets)


def calibration_of_run(plan: Plan, sample: CalibrationSample | None, source: str) -> Calibration | None:
    """The calibration fitted on outputs of the run's model; None without any.

    Args:
        source: What the images are.
    """
    if sample is None:
        return None
    error = named_metrics(plan.resolved.registry, ["calibration_error"])["calibration_error"]
    return fit_calibration(sample, plan.task, plan.splits.classes, plan.config.calibration, error, source)
