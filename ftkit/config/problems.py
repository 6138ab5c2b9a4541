"""Errors of a config, one line each: the place, the key, the reason and the remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftkit.config.choices import KEY_PEERS
from ftkit.config.schema import Checkpoint, Config, Head, PreprocessingOverrides
from ftkit.errors import RequestError, format_value, nearest, one_line

if TYPE_CHECKING:
    from pydantic import ValidationError

_EXPECTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "none_required": "null",
    "too_long": "{max_length} values at most",
    "too_short": "{min_length} values or more",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
}
_KEYS: dict[tuple[str, ...], Sequence[str]] = {
    (): tuple(Config.model_fields),
    ("preprocessing",): tuple(PreprocessingOverrides.model_fields),
    ("head",): tuple(Head.model_fields),
    ("checkpoint",): tuple(Checkpoint.model_fields),
}


class ConfigError(RequestError):
    """All errors of a config.

    Attributes:
        message: The first error.
        others: The other errors, one line each.
    """

    def __init__(self, found: Sequence[str]) -> None:
        super().__init__(found[0])
        self.others = tuple(one_line(fault) for fault in found[1:])

    def __str__(self) -> str:
        return "; ".join([self.message, *self.others])


def source_of(sources: Mapping[str, str], key: str) -> str:
    """Where a key, or a key in its section, is set; empty for defaults."""
    return sources.get(key) or next((where for k, where in sources.items() if k.startswith(f"{key}.")), "")


def place(sources: Mapping[str, str], key: str) -> str:
    """A key in messages: `ftkit.yaml:12: epochs`, `--epochs`, or just `epochs`."""
    where = source_of(sources, key)
    if not where:
        section, _, _ = key.rpartition(".")
        above = source_of(sources, section)
        while not above and section:
            section, _, _ = section.rpartition(".")
            above = sources.get(section, "")
        return f"{above}: {key}" if above else key
    if where.startswith("--set ") and key.startswith(f"{where[6:]}.") and not key.endswith(".name"):
        return f"{where}: {key}"
    # Keyword arguments of the library have the names of keys.
    return where if where == key or where.startswith(("--", "FTKIT_")) else f"{where}: {key}"


def unknown_key(sources: Mapping[str, str], key: str, known: Sequence[str], peers: Mapping[str, str]) -> str:
    """The error for an unknown key, with the most similar known one.

    Args:
        peers: Names of other tools for keys, and the keys.
    """
    close = nearest(key.rpartition(".")[2], [*known, *peers])
    if close:
        remedy = f", did you mean {peers.get(close, close)!r}?"
    else:
        remedy = f"; known: {', '.join(known)}" if known else "; there are no options"
    return f"{place(sources, key)}: unknown key{remedy}"


def lines(error: ValidationError, given: Any, prefix: str, sources: Mapping[str, str]) -> list[str]:
    """The errors of pydantic, one line per key; those of the members of a union are joined."""
    expected: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    found: list[str] = []
    for item in error.errors(include_url=False):
        path = _path_in(given, item["loc"])
        key = ".".join([*([prefix] if prefix else []), *map(str, path)])
        if item["type"] == "extra_forbidden":
            section = tuple(str(p) for p in path[:-1])
            found.append(unknown_key(sources, key, _KEYS.get(section, ()), {} if section else KEY_PEERS))
            continue
        if item["type"] == "missing" and isinstance(item["loc"][-1], int):
            # pydantic reports each missing value of a list; the last one gives the number of values needed.
            key, needed = key.rpartition(".")[0], item["loc"][-1] + 1
            expected[key], values[key] = [f"{needed} values or more"], item["input"]
            continue
        values[key] = item["input"]
        expected.setdefault(key, []).append(_expectation(item["type"], item.get("ctx", {}), item["msg"]))
    for key, wanted in expected.items():
        either = " or ".join(dict.fromkeys(wanted))
        found.append(f"{place(sources, key)}: must be {either}, not {format_value(values[key])}")
    return found


def _path_in(given: Any, loc: Sequence[str | int]) -> list[str | int]:
    """The part of pydantic's location that is in the input; the rest names members of unions."""
    path: list[str | int] = []
    for part in loc:
        try:
            given = given[part]
        except (KeyError, IndexError, TypeError):
            break
        path.append(part)
    return path or list(loc)


def _expectation(kind: str, context: Mapping[str, Any], message: str) -> str:
    if kind == "literal_error":
        names = re.findall(r"'([^']*)'", str(context["expected"])) or [str(context["expected"])]
        return f"one of {', '.join(names)}" if len(names) > 1 else repr(names[0])
    if kind in _EXPECTED:
        return _EXPECTED[kind].format(
            **{k: int(v) if isinstance(v, float) and v == int(v) else v for k, v in context.items()}
        )
    if kind in {"value_error", "assertion_error"}:
        return f"valid ({context.get('error', message)})"
    return message if kind == "not_a_switch" else message[:1].lower() + message[1:]
