"""Which plugins there are, read off the metadata of installed packages and the config; nothing is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path

BUILT_IN = "ftkit"
"""The name that built-in plugins share, and the group of the entry points of the others."""
DISABLE = "FTKIT_DISABLE_PLUGINS"
STRICT = "FTKIT_STRICT_PLUGINS"
ALL = "*"
"""In `FTKIT_DISABLE_PLUGINS`, every plugin that isn't built in."""


@dataclass(frozen=True)
class Owner:
    """The plugin that something comes from; built-ins have the name `ftkit`.

    Attributes:
        package: What `pip install` takes, or the path of a project's own plugin file.
        summary: What its package says of itself, one line.
    """

    name: str
    package: str
    version: str
    summary: str = ""


@dataclass(frozen=True)
class Fault:
    """Why a plugin, or a part of it, isn't there."""

    plugin: str
    reason: str

    def __str__(self) -> str:
        return (
            f"plugin {self.plugin!r} is left out: {self.reason} "
            f"(mend or uninstall it, or leave it out with -p no:{self.plugin})"
        )


@dataclass(frozen=True)
class Source:
    """A plugin that can be loaded.

    Attributes:
        entry: The entry point of an installed package, or None.
        file: The Python file of a project's own plugin, or None.
        requires: The version of ftkit that its package asks for, as `>=0.1`; empty where it asks for none.
    """

    owner: Owner
    entry: EntryPoint | None = None
    file: Path | None = None
    requires: str = ""


def installed() -> list[Source]:
    """The plugins of installed packages, by name; two packages may claim the same one."""
    return sorted((_installed(entry) for entry in entry_points(group=BUILT_IN)), key=lambda source: source.owner.name)


def of_project(paths: Sequence[Path]) -> list[Source]:
    """The plugins that a config names, each a Python file or a package's folder."""
    return [Source(Owner(path.stem.replace("_", "-"), str(path), ""), file=path) for path in paths]


def is_disabled(name: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `-p no:NAME`, `--no-plugins` or FTKIT_DISABLE_PLUGINS leaves a plugin out."""
    named = {part.strip() for part in environment.get(DISABLE, "").split(",")}
    return name in named or ALL in named


def is_strict(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a plugin's fault ends the command, by `--strict-plugins` or FTKIT_STRICT_PLUGINS."""
    return environment.get(STRICT, "") not in ("", "0")


def _installed(entry: EntryPoint) -> Source:
    package = entry.dist
    if package is None:
        return Source(Owner(entry.name, "", ""), entry=entry)
    about = package.metadata
    summary = about["Summary"].strip() if "Summary" in about else ""
    owner = Owner(entry.name, package.name, package.version, summary)
    return Source(owner, entry=entry, requires=_required_of_us(package))


def _required_of_us(package: Distribution) -> str:
    """The versions of ftkit that a package works with, as its metadata has them."""
    from packaging.requirements import InvalidRequirement, Requirement

    for text in package.requires or ():
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            continue
        if wanted.name.lower() == BUILT_IN and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
            return str(wanted.specifier)
    return ""
