"""What a run's model knows of its own outputs: their calibration, and the reference for other images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ftkit.metrics.selection import named_metrics
from ftkit.planning.run_plan import Plan
from ftkit.runs.model_card import ModelCard
from ftkit.uncertainty.calibrated_network import calibrated_logits
from ftkit.uncertainty.calibration import Calibration, calibrated_decision, can_calibrate
from ftkit.uncertainty.calibration_fit import CalibrationSample, fit_calibration
from ftkit.uncertainty.novelty import reference_outputs
from ftkit.uncertainty.reference_outputs import ReferenceOutputs


def calibrated_card(plan: Plan, card: ModelCard, sample: CalibrationSample | None, source: str) -> ModelCard:
    """The card of a run's model with its calibration, and with what is known of its outputs.

    Args:
        sample: Outputs of the model for images that it wasn't trained on; None for none.
        source: What the images are.
    """
    if sample is None:
        return card
    calibration = _calibration(plan, sample, source)
    return replace(
        card, calibration=calibration, reference=_reference(plan, card.decision, calibration, sample, source)
    )


def _calibration(plan: Plan, sample: CalibrationSample, source: str) -> Calibration | None:
    if plan.config.calibration == "off":
        return None
    error = named_metrics(plan.resolved.registry, ["calibration_error"])["calibration_error"]
    return fit_calibration(sample, plan.task, plan.splits.classes, plan.config.calibration, error, source)


def _reference(
    plan: Plan,
    decision: Mapping[str, Any],
    calibration: Calibration | None,
    sample: CalibrationSample,
    source: str,
) -> ReferenceOutputs | None:
    if not can_calibrate(plan.task):
        return None
    applied = calibrated_decision(decision, calibration, plan.num_classes)
    logits = calibrated_logits(sample.logits, calibration)
    return reference_outputs(plan.task.outputs(logits, sample.targets, plan.splits.classes, applied), source)
