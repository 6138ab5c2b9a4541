"""How well a model is calibrated on labelled images."""

from __future__ import annotations

import torch

from ftkit.metrics.outputs import Outputs
from ftkit.metrics.selection import named_metrics
from ftkit.models.bundle import Loaded
from ftkit.plugins import Registry
from ftkit.uncertainty.calibrated_network import uncalibrated_logits
from ftkit.uncertainty.calibration import CalibrationErrors, applies, can_calibrate
from ftkit.uncertainty.calibration_report import calibration_errors


def calibration_on_images(loaded: Loaded, outputs: Outputs) -> CalibrationErrors | None:
    """The calibration error of a model's outputs, and that without its calibration; None if the task has none.

    Args:
        outputs: As `bundle_outputs` gives them.
    """
    card = loaded.card
    if not can_calibrate(loaded.task) or (loaded.task.exclusive and len(card.classes) < 2):
        return None
    error = named_metrics(Registry(), ["calibration_error"])["calibration_error"]
    if not applies(card.calibration):
        return calibration_errors(outputs, None, error)
    raw = uncalibrated_logits(outputs.logits.double(), card.calibration)
    before = loaded.task.outputs(raw, torch.from_numpy(outputs.targets), card.classes, card.decision)
    return calibration_errors(outputs, before, error)
