"""What a check raises, and how it asks."""

from __future__ import annotations

from typing import Any

from ftkit.errors import FtkitError


class ContractError(FtkitError):
    """A plugin's part doesn't keep what ftkit promises its users of it."""


def require(holds: bool, message: str, hint: str | None = None) -> None:
    """Raise unless something holds.

    Raises:
        ContractError: It doesn't.
    """
    if not holds:
        raise ContractError(message, hint)


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
