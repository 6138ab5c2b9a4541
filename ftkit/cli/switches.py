"""Global switches, accepted anywhere on the command line and by every command."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from ftkit.errors import RequestError

DEBUG, NO_PLUGINS, STRICT_PLUGINS, PLUGIN = "--debug", "--no-plugins", "--strict-plugins", "-p"


@dataclass(frozen=True)
class Switches:
    """The global switches of a command line.

    Attributes:
        rest: The arguments without the switches.
        settings: The equivalent environment variables, which child processes inherit.
    """

    rest: list[str]
    debug: bool
    settings: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Set the environment variables inside the context."""
        before = {name: os.environ.get(name) for name in self.settings}
        os.environ.update(self.settings)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def take(arguments: list[str]) -> Switches:
    """Separate the switches before a `--` from the other arguments.

    Raises:
        RequestError: The value of `-p` isn't `no:NAME`.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    words, rest, disabled = iter(arguments[:end]), list[str](), list[str]()
    found: set[str] = set()
    for word in words:
        if word in (DEBUG, NO_PLUGINS, STRICT_PLUGINS):
            found.add(word)
        elif word == PLUGIN:
            disabled.append(_disabled(next(words, "")))
        elif word.startswith(f"{PLUGIN}no:"):
            disabled.append(_disabled(word.removeprefix(PLUGIN)))
        else:
            rest.append(word)
    debug = DEBUG in found or os.environ.get("FTKIT_DEBUG", "") not in ("", "0")
    return Switches(rest + arguments[end:], debug, _settings(found, disabled))


def _disabled(value: str) -> str:
    word, colon, name = value.partition(":")
    if word != "no" or not colon or not name:
        raise RequestError(f"{PLUGIN} {value}".rstrip() + ": not no:NAME", f"disable a plugin with {PLUGIN} no:NAME")
    return name


def _settings(found: set[str], disabled: list[str]) -> dict[str, str]:
    settings = {}
    if NO_PLUGINS in found:
        disabled = ["*"]
    if disabled:
        before = [name for name in os.environ.get("FTKIT_DISABLE_PLUGINS", "").split(",") if name]
        settings["FTKIT_DISABLE_PLUGINS"] = ",".join([*before, *disabled])
    if DEBUG in found:
        settings["FTKIT_DEBUG"] = "1"
    if STRICT_PLUGINS in found:
        settings["FTKIT_STRICT_PLUGINS"] = "1"
    return settings
