"""Fits the calibration of a model on outputs for labelled images that it wasn't trained on.

Temperature scaling divides all logits by one number (Guo et al., On Calibration of Modern Neural Networks, 2017), which
changes no prediction. Vector scaling has a factor and a summand for each class. Both minimise the log loss of the
softmax, or with several labels per image the mean log loss of the sigmoid of each class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ftkit.metrics.finite_outputs import finite_rows
from ftkit.parts.metric import Array, Metric
from ftkit.parts.task import Task
from ftkit.uncertainty.calibration import Calibration, Method, can_calibrate
from ftkit.uncertainty.calibration_report import calibration_errors
from ftkit.uncertainty.scaling_fit import Scaling, fit_temperature, fit_vector

LEAST_IMAGES = 50
"""With fewer images there is no calibration: a temperature fitted on them is mostly chance."""
FOLDS = 5
MOST_VALUES = 2**21
"""Logits to fit on, of at least `LEAST_SAMPLED` images; of more images a random sample is used."""
LEAST_SAMPLED = 2000
RESAMPLES = 500
MOST_RESAMPLED = 5000
"""Images up to which intervals of the calibration error are computed."""


@dataclass(frozen=True)
class CalibrationSample:
    """Outputs to fit a calibration on.

    Attributes:
        logits: float32 `(n, classes)`.
        targets: As `Task.targets` gives them.
    """

    logits: Tensor
    targets: Tensor


def calibration_sample(logits: Tensor, targets: Tensor) -> CalibrationSample:
    """The outputs, or of many images those of a random sample, always the same one."""
    most = max(LEAST_SAMPLED, MOST_VALUES // max(1, logits.shape[1]))
    if len(logits) > most:
        chosen = torch.from_numpy(np.sort(np.random.default_rng(0).permutation(len(logits))[:most]))
        logits, targets = logits[chosen], targets[chosen]
    return CalibrationSample(logits, targets)


def fit_calibration(
    sample: CalibrationSample, task: Task, classes: Sequence[str], method: str, error: Metric, source: str
) -> Calibration:
    """The calibration of a model; of method `none` where it doesn't lower the log loss of images not fitted on.

    That loss is cross-validated, and has to be lower by more than the standard error of the difference.

    Args:
        classes: Names, in the order of the logits.
        method: `auto`, which is temperature scaling, `temperature` or `vector`.
        error: The metric of the calibration error.
        source: What the images are.
    """
    images, wanted = len(sample.logits), _method(method)
    reason = _reason_without(sample, task)
    if reason:
        return Calibration(source=source, images=images, reason=reason)
    logits, targets = sample.logits.double(), sample.targets
    unseen = _cross_validated(logits, targets, wanted)
    before, after = (task.outputs(each, targets, classes) for each in (logits, unseen))
    saved: Array = before.losses - after.losses
    errors = calibration_errors(after, before, error, RESAMPLES, MOST_RESAMPLED)
    found = Calibration(
        source=source,
        images=images,
        loss=float(before.losses.mean()),
        calibrated_loss=float(after.losses.mean()),
        errors=errors,
    )
    if not saved.mean() > saved.std(ddof=1) / images**0.5:
        unseen_images = "images that it wasn't fitted on by more than the standard error"
        return replace(found, reason=f"{wanted} scaling doesn't lower the log loss of {unseen_images}")
    scale, bias = _fitted(logits, targets, wanted)
    return replace(found, method=wanted, scale=scale, bias=bias)


def _method(method: str) -> Method:
    return "vector" if method == "vector" else "temperature"


def _reason_without(sample: CalibrationSample, task: Task) -> str:
    """Why no calibration can be fitted; empty where one can."""
    images, classes = sample.logits.shape
    if not can_calibrate(task):
        return f"the probabilities of task {task.name} aren't a softmax or a sigmoid"
    if images < LEAST_IMAGES:
        return f"it needs {LEAST_IMAGES} images or more"
    if classes < 2 and task.exclusive:
        return "there is one class alone"
    if not finite_rows(sample.logits).all() or not sample.logits.isfinite().all():
        return "some outputs are not finite"
    return ""


def _fitted(logits: Tensor, targets: Tensor, method: Method) -> Scaling:
    return fit_vector(logits, targets) if method == "vector" else fit_temperature(logits, targets)


def _cross_validated(logits: Tensor, targets: Tensor, method: Method) -> Tensor:
    """The logits of each image, calibrated with parameters fitted on the other folds of the images."""
    found = torch.empty_like(logits)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(logits)))
    for unseen in order.tensor_split(FOLDS):
        seen = torch.ones(len(logits), dtype=torch.bool)
        seen[unseen] = False
        scale, bias = _fitted(logits[seen], targets[seen], method)
        found[unseen] = logits[unseen] * torch.tensor(scale, dtype=logits.dtype)
        if bias:
            found[unseen] += torch.tensor(bias, dtype=logits.dtype)
    return found
