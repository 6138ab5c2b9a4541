"""What the options of optimizers may be, without torch: so `ftkit plan` refuses what a training would.

A test lays the table beside torch's own classes: what passes here is accepted there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ftkit.errors import format_value
from ftkit.optim.optimizer_names import OPTIMIZERS

Check = Callable[[Any], bool]
Rule = tuple[Check, str]
"""Whether a value will do, and what will in words."""

UNFIT: Mapping[str, str] = {
    "lbfgs": "it computes the loss several times a step",
    "muon": "it trains matrices alone",
    "sparseadam": "it takes sparse gradients alone",
}
"""Classes of torch.optim that can't train every layer of a network by one plain step, with the reason."""
FIRST_RATE_ALONE = ("rprop",)
"""Optimizers that look at the learning rate in the first step of a weight alone."""


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _between(low: float, high: float = math.inf, below: bool = False) -> Check:
    return lambda value: _number(value) and low <= value and (value < high if below else value <= high)


def _pair(first: Check, second: Check | None = None) -> Check:
    checks = (first, second or first)
    return lambda value: (
        isinstance(value, list | tuple)
        and len(value) == len(checks)
        and all(check(one) for check, one in zip(checks, value, strict=True))
    )


def _etas(value: Any) -> bool:
    return _pair(_number)(value) and 0 < value[0] < 1 < value[1]


def _steps(value: Any) -> bool:
    return _pair(_number)(value) and 0 < value[0] <= value[1]


_ANY: Rule = (_number, "a finite number")
_POSITIVE: Rule = (_between(0), "a number of 0 or more")
_PART: Rule = (_between(0, 1), "a number from 0 to 1")
_SWITCH: Rule = (lambda value: isinstance(value, bool), "true or false")
RULES: Mapping[str, Rule] = {
    "alpha": _POSITIVE,
    "amsgrad": _SWITCH,
    "beta2_decay": (_between(-math.inf, 0), "a number of 0 or less"),
    "betas": (_pair(_between(0, 1, below=True)), "two numbers from 0 to below 1, as [0.9, 0.999]"),
    "centered": _SWITCH,
    "d": (_between(1), "a number of 1 or more"),
    "dampening": _ANY,
    "decoupled_weight_decay": _SWITCH,
    "eps": _POSITIVE,
    "etas": (_etas, "two numbers, one between 0 and 1 and one above 1, as [0.5, 1.2]"),
    "fused": (lambda value: value is None or isinstance(value, bool), "true or false"),
    "initial_accumulator_value": _POSITIVE,
    "lambd": _POSITIVE,
    "lr_decay": _POSITIVE,
    "momentum": _POSITIVE,
    "momentum_decay": _POSITIVE,
    "nesterov": _SWITCH,
    "rho": _PART,
    "step_sizes": (_steps, "two numbers above 0, the smaller first, as [1e-6, 50]"),
    "t0": _ANY,
    "weight_decay": _POSITIVE,
}
OWN_RULES: Mapping[tuple[str, str], Rule] = {
    ("adafactor", "eps"): (
        _pair(lambda value: value is None or _between(0)(value), _between(0)),
        "two numbers of 0 or more, as [null, 0.001]",
    ),
}
"""Where an optimizer means something else by an option of that name."""


def option_faults(name: str, options: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with the values of an optimizer's options, by option; those that it hasn't got are passed over.

    Args:
        name: A key of `OPTIMIZERS`.
    """
    known = {option: value for option, value in options.items() if option in OPTIMIZERS[name]}
    rules = {option: OWN_RULES.get((name, option)) or RULES[option] for option in known}
    found = {
        option: f"must be {rules[option][1]}, not {format_value(value)}"
        for option, value in known.items()
        if not rules[option][0](value)
    }
    if not found and known.get("nesterov") and not (known.get("momentum") and not known.get("dampening")):
        found["nesterov"] = "needs a momentum above 0 and no dampening: set optimizer.momentum=0.9 too"
    return found
