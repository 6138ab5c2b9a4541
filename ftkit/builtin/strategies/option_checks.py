"""Checks of options that several built-in strategies have."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ftkit.api import RequestError


def listed(values: Sequence[object]) -> str:
    return f"[{', '.join(map(str, values))}]"


def check_scale(key: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise RequestError(f"strategy.{key} is {value}", "give a number above 0; strategy freeze trains the head alone")


def check_decay(value: float) -> None:
    if not 0 < value <= 1:
        raise RequestError(f"strategy.decay is {value}", "give more than 0 and at most 1")


def check_count(key: str, value: int, unit: str) -> None:
    if value < 1:
        raise RequestError(f"strategy.{key} is {value}", f"give a number of {unit} from 1")


def check_within(key: str, epoch: int, epochs: int, hint: str = "lower it or raise epochs", shown: str = "") -> None:
    """Refuse an epoch that the run never reaches."""
    if epoch >= epochs:
        run = f"{epochs} epoch" if epochs == 1 else f"{epochs} epochs"
        raise RequestError(f"strategy.{key} is {shown or epoch}, but the run has {run}", hint)
