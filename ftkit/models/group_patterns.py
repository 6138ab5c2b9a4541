"""Layer groups from lists of parameter and layer names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from ftkit.parts.backbone import LayerGroup


def layer_groups(members: Mapping[str, Iterable[str]]) -> tuple[LayerGroup, ...]:
    """Layer groups whose patterns match their own members, and no member of another group.

    Args:
        members: Names of parameters by group, from the input to the head, and names of layers with a dot at the end, so
            that layers without parameters belong to a group too. No name may be in two groups.
    """
    owned = {group: list(names) for group, names in members.items()}
    around = {group: {outer for name in names for outer in _around(name)} for group, names in owned.items()}
    return tuple(
        LayerGroup(group, _pattern(names, around[group].difference(*(around[g] for g in owned if g != group))))
        for group, names in owned.items()
    )


def _pattern(names: Iterable[str], whole: set[str]) -> str:
    """A pattern for `names`, by the outermost modules that belong to the group alone."""
    kept = {next((outer for outer in _around(name) if outer in whole), f"{name}$") for name in names}
    return "|".join(_joined(sorted(kept))) or "(?!)"  # a group without members matches nothing


def _around(name: str) -> list[str]:
    """The modules that contain a parameter or a layer, the layer itself included, outermost first."""
    parts = name.split(".")
    return [".".join(parts[:end]) + "." for end in range(1, len(parts))]


def _joined(prefixes: list[str]) -> Iterator[str]:
    """Prefixes as expressions; those that differ only in a number become one."""
    numbered: dict[str, list[str]] = {}
    for prefix in prefixes:
        parent, _, child = prefix.removesuffix(".").rpartition(".")
        if prefix.endswith(".") and child.isdecimal():
            numbered.setdefault(parent, []).append(child)
        else:
            yield re.escape(prefix.removesuffix("$")) + "$" * prefix.endswith("$")
    for parent, children in numbered.items():
        each = "|".join(sorted(children, key=int))
        yield rf"{re.escape(parent)}\.({each})\." if parent else rf"({each})\."
