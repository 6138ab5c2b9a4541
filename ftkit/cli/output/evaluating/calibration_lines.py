"""Lines on the calibration of a model: what was fitted, and the calibration error with and without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftkit.errors import one_line
from ftkit.metrics.rounding import digits_of

if TYPE_CHECKING:
    from ftkit.uncertainty.calibration import Bounds, Calibration, CalibrationErrors


def fitted_lines(calibration: Calibration | None) -> list[str]:
    """What training has found; empty where calibration is off."""
    if calibration is None:
        return []
    images = f"{calibration.images:,} {calibration.source}"
    lines = [f"calibration: {calibration.describe()}, fitted on {images}"]
    if calibration.method == "none":
        lines = [f"calibration: none, {one_line(calibration.reason)} ({images})"]
    if calibration.loss is None or calibration.calibrated_loss is None or calibration.errors is None:
        return lines
    losses = f"cross-validated log loss {calibration.loss:.4f} without, {calibration.calibrated_loss:.4f} with it"
    return [*lines, f"  {losses}; {_errors_text(calibration.errors, digits_of(calibration.images))}"]


def measured_lines(calibration: Calibration | None, errors: CalibrationErrors | None, images: int) -> list[str]:
    """What an evaluation has found on other images."""
    if errors is None:
        return []
    has_one = calibration is not None and calibration.method != "none"
    of = calibration.describe() if calibration is not None and has_one else "none"
    return [f"calibration: {of}; {_errors_text(errors, digits_of(images))}"]


def calibration_json(calibration: Calibration | None, errors: CalibrationErrors | None) -> dict[str, Any] | None:
    """The same as JSON values; the errors are of the evaluated images."""
    if errors is None:
        return None
    from dataclasses import asdict

    known: dict[str, Any] = {"method": "none", "scale": (), "bias": (), "source": "", "images": 0}
    if calibration is not None:
        known = {name: getattr(calibration, name) for name in known}
    fitted = {"source": known.pop("source"), "images": known.pop("images")}
    found = {name: _with_ends(value) if "interval" in name else value for name, value in asdict(errors).items()}
    return {**known, "fitted_on": fitted, **found}


def _with_ends(bounds: Bounds) -> dict[str, float | None]:
    """An interval as that of a metric is written."""
    return dict(zip(("low", "high"), bounds, strict=True))


def _errors_text(errors: CalibrationErrors, digits: int) -> str:
    own = f"{errors.error:.{digits}f}{bounds_text(errors.error_interval, digits)}"
    if errors.uncalibrated_error is None:
        return f"calibration error {own}"
    before = f"{errors.uncalibrated_error:.{digits}f}{bounds_text(errors.uncalibrated_error_interval, digits)}"
    change = f"{errors.error - errors.uncalibrated_error:+.{digits}f}{bounds_text(errors.change_interval, digits)}"
    return f"calibration error {before} without, {own} with it: {change}"


def bounds_text(bounds: Bounds, digits: int = 4) -> str:
    """An interval in brackets after a space; empty without one."""
    low, high = bounds
    return "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
