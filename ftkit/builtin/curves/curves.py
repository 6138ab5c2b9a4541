"""The built-in learning-rate curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ftkit.api import Curve, RequestError, hookimpl


@hookimpl
def ftkit_curves() -> Mapping[str, type[Curve]]:
    return {"cosine": Cosine, "linear": Linear, "constant": Constant, "step": Step, "one-cycle": OneCycle}


@dataclass(frozen=True)
class Constant(Curve):
    """A constant learning rate."""

    def shape(self, progress: float, epoch: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Cosine(Curve):
    """Half a cosine from 1 down to `final`.

    Attributes:
        final: The factor at the end of the run.
    """

    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_part("final", self.final)

    def shape(self, progress: float, epoch: float) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Linear(Curve):
    """A straight line from 1 down to `final`.

    Attributes:
        final: The factor at the end of the run.
    """

    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_part("final", self.final)

    def shape(self, progress: float, epoch: float) -> float:
        return 1 + (self.final - 1) * progress


@dataclass(frozen=True)
class Step(Curve):
    """Multiplied by `gamma` every `every` epochs, as in the PyTorch tutorials.

    Attributes:
        every: Epochs between drops, counted from the end of warm-up.
        gamma: Factor of each drop.
    """

    every: int = 7
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1:
            raise RequestError(f"lr_curve.every is {self.every}", "give a number of epochs from 1")
        _check_part("gamma", self.gamma)

    def shape(self, progress: float, epoch: float) -> float:
        return float(self.gamma ** int(epoch // self.every))


@dataclass(frozen=True)
class OneCycle(Curve):
    """Cosine up from `start` to 1 in the first `rise` of the run, then cosine down to `final` (Smith, 2018).

    Attributes:
        rise: Fraction of the run in which the factor rises, between 0 and 1.
        start: The factor at the first step.
        final: The factor at the end of the run.
    """

    rise: float = 0.3
    start: float = 0.04
    final: float = 0.000004

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rise < 1:
            raise RequestError(f"lr_curve.rise is {self.rise}", "give a fraction of the run between 0 and 1")
        _check_part("start", self.start)
        _check_part("final", self.final)

    def shape(self, progress: float, epoch: float) -> float:
        if progress < self.rise:
            low, part = self.start, progress / self.rise
        else:
            low, part = self.final, (1 - progress) / (1 - self.rise)
        return low + (1 - low) * (1 - math.cos(math.pi * part)) / 2


def _check_part(key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise RequestError(f"lr_curve.{key} is {value}", "give a number from 0 to 1")
