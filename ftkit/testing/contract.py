"""The error of the contract checks, and helpers that raise it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ftkit.errors import FtkitError, RequestError
from ftkit.testing.process_copies import pickled_copy

T = TypeVar("T")
V = TypeVar("V")


class ContractError(FtkitError):
    """A part of a plugin violates the contract of its kind."""


def require(condition: bool, message: str, hint: str | None = None) -> None:
    """Raise unless a condition is true.

    Raises:
        ContractError: It is false.
    """
    if not condition:
        raise ContractError(message, hint)


def run_plan_check(check: Callable[[V], T], value: V) -> T:
    """Run a check that planning makes too, and return its result.

    Raises:
        ContractError: The check raised a `RequestError`; the message is the same.
    """
    try:
        return check(value)
    except RequestError as error:
        raise ContractError(error.message, error.hint) from None


def require_frozen_dataclass(part: object) -> None:
    """Require a frozen dataclass: its fields are the options, which don't change in a run."""
    kind: type[Any] = type(part)
    # Those of the class itself: an undecorated subclass inherits the attribute, but its fields are not options.
    parameters = vars(kind).get("__dataclass_params__")
    require(
        parameters is not None and parameters.frozen,
        f"{kind.__name__} is not a frozen dataclass",
        "write @dataclass(frozen=True) above the class",
    )


def require_picklable(part: V) -> V:
    """Require that a part can be sent to another process; returns the copy that arrives there."""
    try:
        return pickled_copy(part)
    except Exception as error:
        raise ContractError(f"it can't be pickled: {error}", "define its class at the top of a module") from error
