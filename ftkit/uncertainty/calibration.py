"""The calibration of a model, as its card has it. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from ftkit.parts.task import Task
from ftkit.tasks.multiclass import Multiclass
from ftkit.tasks.multilabel import Multilabel

Method: TypeAlias = Literal["none", "temperature", "vector"]
Bounds: TypeAlias = tuple[float | None, float | None]
"""The lower and the upper end of a 95 % interval."""
NO_BOUNDS: Bounds = (None, None)


@dataclass(frozen=True)
class CalibrationErrors:
    """The calibration error of outputs with calibration, and of the same outputs without.

    Attributes:
        error, uncalibrated_error: The latter is None where the model has no calibration.
        error_interval, uncalibrated_error_interval, change_interval: 95 % intervals of these, and of the former less
            the latter; without ends where there are too many images to resample.
    """

    error: float
    uncalibrated_error: float | None = None
    error_interval: Bounds = NO_BOUNDS
    uncalibrated_error_interval: Bounds = NO_BOUNDS
    change_interval: Bounds = NO_BOUNDS


@dataclass(frozen=True)
class Calibration:
    """A function of the logits that makes the probabilities of a model agree with how often it is right.

    The calibrated logits are `logits * scale + bias`. Losses and errors are means over the images that it was fitted
    on; those with calibration are of images that the parameters weren't fitted on, by cross-validation.

    Attributes:
        method: `none`: the logits stay as they are, for a `reason`.
        scale: Positive factors: one for all classes with `temperature`, one for each class with `vector`, otherwise
            none. The temperature is 1 over the factor.
        bias: A summand for each class with `vector`, otherwise none.
        source: What images it was fitted on.
        images: Number of these images.
        loss, calibrated_loss: Log loss.
        errors: The calibration error, with and without calibration.
        reason: Why the method is `none`.
    """

    method: Method = "none"
    scale: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()
    source: str = ""
    images: int = 0
    loss: float | None = None
    calibrated_loss: float | None = None
    errors: CalibrationErrors | None = None
    reason: str = ""

    def describe(self) -> str:
        """The method and its parameters, such as `temperature 1.31`."""
        if self.method == "temperature":
            return f"temperature {1 / self.scale[0]:.3g}"
        if self.method == "vector":
            return f"vector scaling, factors {min(self.scale):.3g} to {max(self.scale):.3g}"
        return "none"

    def check(self, classes: int) -> str:
        """What is invalid in a calibration that was read from a file, for so many classes; empty for a valid one."""
        expected = {"none": (0, 0), "temperature": (1, 0), "vector": (classes, classes)}[self.method]
        if (len(self.scale), len(self.bias)) != expected:
            return f"{self.method} with {len(self.scale)} factors and {len(self.bias)} summands for {classes} classes"
        if not all(math.isfinite(value) for value in (*self.scale, *self.bias)) or min(self.scale, default=1.0) <= 0:
            return "a factor isn't positive and finite, or a summand isn't finite"
        return ""

    def reordered(self, places: Sequence[int]) -> Calibration:
        """The calibration for classes in another order: class `i` is the one that was at `places[i]`."""
        if self.method != "vector":
            return self
        scale, bias = (tuple(values[place] for place in places) for values in (self.scale, self.bias))
        return replace(self, scale=scale, bias=bias)


def applies(calibration: Calibration | None) -> bool:
    """Whether a calibration changes any logits."""
    return calibration is not None and calibration.method != "none"


def can_calibrate(task: Task) -> bool:
    """Whether the probabilities of a task are the softmax of logits, or their sigmoid."""
    return isinstance(task, Multiclass | Multilabel)


def calibrated_decision(
    decision: Mapping[str, Any], calibration: Calibration | None, classes: int
) -> Mapping[str, Any]:
    """A decision on calibrated probabilities that predicts what the decision predicts on uncalibrated ones.

    Args:
        decision: As `Task.fit_decision` gave it; only its `thresholds` depend on the probabilities.
        classes: Number of classes.
    """
    thresholds = decision.get("thresholds")
    if calibration is None or not applies(calibration) or not thresholds:
        return decision
    scales = calibration.scale * (classes if calibration.method == "temperature" else 1)
    biases = calibration.bias or (0.0,) * classes
    moved = (_sigmoid(_logit(t) * scale + bias) for t, scale, bias in zip(thresholds, scales, biases, strict=True))
    return {**decision, "thresholds": list(moved)}


def _logit(probability: float) -> float:
    if not 0 < probability < 1:
        return math.inf if probability >= 1 else -math.inf
    return math.log(probability) - math.log1p(-probability)


def _sigmoid(logit: float) -> float:
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    small = math.exp(logit) if logit > -700 else 0.0
    return small / (1 + small)
