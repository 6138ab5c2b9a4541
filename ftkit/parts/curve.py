"""A learning-rate curve: a pure function of the progress of the run, with a peak of 1."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from ftkit.errors import RequestError


@dataclass(frozen=True)
class Curve(ABC):
    """The factor on the base learning rate over a run, from 0 to 1. Fields are options of `lr_curve`.

    Attributes:
        warmup_epochs: Epochs of linear warm-up to the start of the curve; may be a fraction.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        if not self.warmup_epochs >= 0:
            raise RequestError(f"lr_curve.warmup_epochs is {self.warmup_epochs}", "give 0 or more")

    def factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        """The factor for optimizer step `step`, counted from 0 over the whole run.

        Raises:
            RequestError: The warm-up is longer than the run.
        """
        if self.warmup_epochs > epochs:
            raise RequestError(
                f"lr_curve.warmup_epochs is {self.warmup_epochs:g}, more than the run's epochs ({epochs})",
                "lower it or raise epochs",
            )
        warmup = self.warmup_epochs * steps_per_epoch
        if step < warmup:
            return self.shape(0.0, 0.0) * (step + 1) / (math.floor(warmup) + 1)
        rest = steps_per_epoch * epochs - warmup
        return self.shape((step - warmup) / rest, (step - warmup) / steps_per_epoch)

    @abstractmethod
    def shape(self, progress: float, epoch: float) -> float:
        """The factor after warm-up.

        Args:
            progress: Fraction of the steps after warm-up that are done, from 0 to 1.
            epoch: Epochs since the end of warm-up.
        """
