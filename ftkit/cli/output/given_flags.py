"""The flags and settings that were given to a command, to be repeated in another one."""

from __future__ import annotations

import json as jsonlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.cli.flags import FLAGS

if TYPE_CHECKING:
    from ftkit.config.load import Resolved

GIVEN = ("--", "FTKIT_")
"""Prefixes of the sources of values that were given for this command only."""


def given_now(resolved: Resolved) -> dict[str, str]:
    """The sources by key of values that don't come from the config file."""
    return {key: where for key, where in resolved.sources.items() if where.startswith(GIVEN)}


def given_flags(resolved: Resolved, given: Mapping[str, str]) -> list[str]:
    """The config file, unless it is the default one, and the given flags, as words of a command line."""
    return [*_config_file(resolved), *_repeated(resolved, given)]


def _config_file(resolved: Resolved) -> tuple[str, ...]:
    """`--config` and the file, unless it is the default file."""
    from ftkit.config import DEFAULT_FILE

    files = {where.rpartition(":")[0] for where in resolved.sources.values() if not where.startswith(GIVEN)}
    return next((("--config", file) for file in files if file != str(DEFAULT_FILE)), ())


def _repeated(resolved: Resolved, given: Mapping[str, str]) -> Iterator[str]:
    """The flags as given. Environment variables stay set, so they are not repeated."""
    tree = resolved.config.model_dump(mode="json")
    flags = {flag.names[0]: flag for flag in FLAGS}
    for where in dict.fromkeys(given.values()):
        if where == "--data":
            key = next(key for key, source in given.items() if source == where and key != "dataset.name")
            yield from ("--data", _relative(str(_value_at(tree, key))))
        elif where in flags:
            value = _value_at(tree, flags[where].key)
            if flags[where].repeats:
                for part in value:
                    yield from (where, part["name"])
            elif isinstance(value, bool):
                yield where if value else f"--no-{where.strip('-')}"
            else:
                yield from (where, ",".join(value) if isinstance(value, list) else _relative(str(value)))
        elif where.startswith("--set "):
            key = where.removeprefix("--set ")
            yield from ("--set", f"{key}={_as_yaml(_value_at(tree, key))}")


def _value_at(tree: Any, key: str) -> Any:
    """The value of a dotted key; names may contain dots, and parts in a list are given by name or index."""
    if isinstance(tree, list):
        tree = {str(index): part for index, part in enumerate(tree)} | {part["name"]: part for part in tree}
    if key in tree:
        return tree[key]
    first = next((name for name in tree if key.startswith(f"{name}.")), key.partition(".")[0])
    return _value_at(tree[first], key.removeprefix(f"{first}."))


def _as_yaml(value: object) -> str:
    import yaml

    if isinstance(value, str) and yaml.safe_load(value) == value:
        return value
    return jsonlib.dumps(value)


def _relative(path: str) -> str:
    """A path inside the working folder as a relative path."""
    inside = Path(path).is_absolute() and Path(path).is_relative_to(Path.cwd())
    return os.path.relpath(path) if inside else path
