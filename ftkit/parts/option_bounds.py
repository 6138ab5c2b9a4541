"""Checks of options, with one wording of their messages."""

from __future__ import annotations

import math

from ftkit.errors import RequestError


def check_number(
    option: str, value: float, low: float = -math.inf, high: float = math.inf, above: bool = False, below: bool = False
) -> None:
    """Refuse a number that is not finite or out of bounds.

    Args:
        option: Name of the option; messages of a config put its place before it.
        above: Refuse `low` itself.
        below: Refuse `high` itself.

    Raises:
        RequestError: Names the option, the value and the bounds.
    """
    fits = (value > low if above else value >= low) and (value < high if below else value <= high)
    if not (fits and math.isfinite(value)):
        raise RequestError(f"{option} is {value}", f"give {_wanted(low, high, above, below)}")


def _wanted(low: float, high: float, above: bool, below: bool) -> str:
    if math.isfinite(low) and math.isfinite(high):
        return f"a number {'above' if above else 'from'} {low:g} {'and below' if below else 'to'} {high:g}"
    if math.isfinite(low):
        return f"a number above {low:g}" if above else f"a number of {low:g} or more"
    if math.isfinite(high):
        return f"a number below {high:g}" if below else f"a number of {high:g} or less"
    return "a finite number"
