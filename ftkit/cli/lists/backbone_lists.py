"""Descriptions of all backbones, from the stored lists of plugins where they have some, and their selection."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ftkit.cli.lists.name_patterns import folded, matches, no_match
from ftkit.cli.output import console
from ftkit.cli.output.backbone_descriptions import backbone_json
from ftkit.cli.output.part_options import available
from ftkit.errors import RequestError, plural

if TYPE_CHECKING:
    from ftkit.parts.backbone import Backbone
    from ftkit.plugins import Registry
    from ftkit.plugins.part_index import PartIndex

STORED = "descriptions"
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}


@dataclass(frozen=True)
class Selection:
    """The backbones that a list shows: those that fulfil every given condition.

    Attributes:
        pattern: Of names.
        family: Name of a family, in any spelling.
        max_parameters: As given: a number of parameters without the head, such as `10M`.
    """

    pattern: str | None = None
    family: str | None = None
    max_parameters: str | None = None

    def apply(self, backbones: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The selected descriptions.

        Raises:
            RequestError: No backbone matches, or the number of parameters is invalid.
        """
        most = None if self.max_parameters is None else _count(self.max_parameters)
        named = [one for one in backbones if matches(self.pattern, one["name"])]
        if self.pattern is not None and not named:
            raise no_match("backbones", self.pattern, [one["name"] for one in backbones])
        families = {one["family"] for one in backbones}
        if self.family is not None and folded(self.family) not in map(folded, families):
            raise no_match("backbones", self.family, families, "--family: ")
        found = [one for one in named if self.family is None or folded(one["family"]) == folded(self.family)]
        known = [one for one in found if most is None or one["parameters"] is not None]
        if len(known) < len(found):
            console.note(f"note: {plural(len(found) - len(known), 'backbone')} with an unknown size left out")
        small = [one for one in known if most is None or one["parameters"] <= most]
        if not small:
            given = {"PATTERN": self.pattern, "--family": self.family, "--max-params": self.max_parameters}
            text = ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)
            raise RequestError(f"no backbones match {text}", "leave one of them out")
        return small


def describe_all(registry: Registry, faults: list[str]) -> list[dict[str, Any]]:
    """The descriptions of all backbones as for `--json`, without building networks.

    Plugins whose mapping has an index are described once for each of their versions, with numbers of parameters.

    Args:
        faults: Gets the errors of backbones that can't be described.
    """
    from ftkit.plugins import BUILT_IN

    described = list[dict[str, Any]]()
    for plugin in (BUILT_IN, *(source.owner.name for source in registry.sources())):
        index = registry.backbones.index(plugin)
        found = None if index is None else registry.call_plugin(plugin, partial(index.read, STORED))
        if found is None:
            found = _describe(registry, plugin, index)
        described += found["backbones"]
        faults += found["faults"]
    return described


def _describe(registry: Registry, plugin: str, index: PartIndex | None) -> dict[str, Any]:
    """The descriptions and faults of a plugin's backbones, which are stored in its index if it has one."""
    catalog, faults = registry.backbones, list[str]()
    if index is None:
        found = dict(available(catalog, catalog.of(plugin), faults))
        return {"backbones": [backbone_json(n, b, plugin, build=False) for n, b in found.items()], "faults": faults}
    start = time.perf_counter()
    console.note(f"describing the backbones of plugin {plugin}, once for each version of it")
    found = dict(available(catalog, catalog.of(plugin), faults))
    rows = [backbone_json(name, backbone, plugin, build=False) for name, backbone in found.items()]
    uncounted = [row for row in rows if row["parameters"] is None]
    for row in _with_progress(uncounted):
        row["parameters"] = _counted(found[row["name"]])
    if rows:
        console.note(f"described {plural(len(rows), 'backbone')} in {time.perf_counter() - start:.0f} s")
    described = {"backbones": rows, "faults": faults}
    if not faults and catalog.index(plugin) is not None:  # else the next list may be able to describe more
        index.write(STORED, described)
    return described


def _with_progress(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    from rich.progress import track

    if len(rows) > 1:
        console.note(f"counting the parameters of {len(rows):,} of them, on the meta device")
    yield from track(
        rows, "parameters", console=console.err(), transient=True, disable=not (rows and sys.stderr.isatty())
    )


def _counted(backbone: Backbone) -> int | None:
    """Number of parameters without the head; None for a network that can't be built, which `show` reports."""
    from ftkit.models.model_size import group_parameters

    try:
        return sum(group_parameters(backbone).values())
    except Exception:  # any error of the plugin's or its library's code
        return None


def _count(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgb]?)", text.strip(), re.IGNORECASE)
    if found is None:
        raise RequestError(f"--max-params: {text!r} is no number of parameters", "give one such as 10M or 500K")
    return round(float(found[1]) * UNITS[found[2].upper()])
