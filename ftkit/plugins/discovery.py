"""Discovery of plugins from the metadata of installed packages and the config, without importing them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path

BUILT_IN = "ftkit"
"""The name of the built-in plugins, and the entry point group of the others."""
DISABLE = "FTKIT_DISABLE_PLUGINS"
STRICT = "FTKIT_STRICT_PLUGINS"
ALL = "*"
"""In `FTKIT_DISABLE_PLUGINS`, stands for every plugin that isn't built in."""


@dataclass(frozen=True)
class Owner:
    """The plugin that a part belongs to; built-in plugins are called `ftkit`.

    Attributes:
        package: Name of the package, or path of a project's plugin file.
        summary: Summary of its package, one line.
    """

    name: str
    package: str
    version: str
    summary: str = ""


@dataclass(frozen=True)
class Fault:
    """Why a plugin, or a part of it, isn't available."""

    plugin: str
    reason: str

    def __str__(self) -> str:
        return (
            f"plugin {self.plugin!r} is left out: {self.reason} "
            f"(fix or uninstall it, or leave it out with -p no:{self.plugin})"
        )


@dataclass(frozen=True)
class Source:
    """A plugin that can be loaded.

    Attributes:
        entry: The entry point of an installed package, or None.
        file: The Python file of a project's plugin, or None.
    """

    owner: Owner
    entry: EntryPoint | None = None
    file: Path | None = None

    @property
    def requires(self) -> str:
        """The versions of ftkit that its package requires, such as `>=0.1`; empty for any."""
        package = self.entry.dist if self.entry else None
        return _required_of_us(package) if package else ""


def installed() -> list[Source]:
    """The plugins of installed packages, sorted by name; two packages may have the same one."""
    return sorted((_installed(entry) for entry in entry_points(group=BUILT_IN)), key=lambda source: source.owner.name)


def of_project(paths: Sequence[Path]) -> list[Source]:
    """The plugins that a config lists, each a Python file or a package folder."""
    return [Source(Owner(path.stem.replace("_", "-"), str(path), ""), file=path) for path in paths]


def is_disabled(name: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `-p no:NAME`, `--no-plugins` or FTKIT_DISABLE_PLUGINS disables a plugin."""
    named = {part.strip() for part in environment.get(DISABLE, "").split(",")}
    return name in named or ALL in named


def is_strict(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether faults of plugins are errors, by `--strict-plugins` or FTKIT_STRICT_PLUGINS."""
    return environment.get(STRICT, "") not in ("", "0")


def _installed(entry: EntryPoint) -> Source:
    package = entry.dist
    if package is None:
        return Source(Owner(entry.name, "", ""), entry=entry)
    about = package.metadata  # Each access parses the file again.
    summary = about["Summary"].strip() if "Summary" in about else ""
    return Source(Owner(entry.name, about["Name"], about["Version"], summary), entry=entry)


def _required_of_us(package: Distribution) -> str:
    # Imported here, since a list of plugins doesn't need it.
    from packaging.requirements import InvalidRequirement, Requirement

    for text in package.requires or ():
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            continue
        if wanted.name.lower() == BUILT_IN and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
            return str(wanted.specifier)
    return ""
