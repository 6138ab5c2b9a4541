"""What a check raises, and how it asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ftkit.errors import FtkitError, RequestError

T = TypeVar("T")
V = TypeVar("V")


class ContractError(FtkitError):
    """A plugin's part doesn't keep what ftkit promises its users of it."""


def require(holds: bool, message: str, hint: str | None = None) -> None:
    """Raise unless something holds.

    Raises:
        ContractError: It doesn't.
    """
    if not holds:
        raise ContractError(message, hint)


def run_plan_check(check: Callable[[V], T], value: V) -> T:
    """What a check that plans make too gives back.

    Raises:
        ContractError: What it refuses, in its own words.
    """
    try:
        return check(value)
    except RequestError as error:
        raise ContractError(error.message, error.hint) from None


def require_frozen_dataclass(part: object) -> None:
    """The fields of a dataclass are the options of its class; frozen, none of them changes in a run."""
    kind: type[Any] = type(part)
    # Its own, for a class that isn't decorated inherits the parameters of one that is, and drops its fields.
    parameters = vars(kind).get("__dataclass_params__")
    require(
        parameters is not None and parameters.frozen,
        f"{kind.__name__} is no frozen dataclass",
        "write @dataclass(frozen=True) above the class",
    )
