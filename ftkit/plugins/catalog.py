"""The parts of one kind, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Protocol, TypeVar

from ftkit.errors import FtkitError, RequestError, nearest, unknown
from ftkit.plugin_errors import plugin_location
from ftkit.plugins.discovery import BUILT_IN, Fault, Owner
from ftkit.plugins.loading import Offer, reason
from ftkit.plugins.part_index import PartIndex

T = TypeVar("T")
FEW = 12
"""Maximum number of names in a message."""


class Loader(Protocol):
    """Loads plugins on demand; each adds its parts to the catalogs."""

    faults: list[Fault]

    def load(self, plugin: str) -> None: ...

    def load_all(self) -> None: ...

    def has_plugin(self, plugin: str) -> bool:
        """Whether there is a plugin of that name, even if it is broken or disabled."""
        ...

    def why_missing(self, plugin: str) -> str | None:
        """Why a plugin has no parts; None if it works or is unknown."""
        ...

    def call_plugin(self, plugin: str, call: Callable[[], T]) -> T | None:
        """The result of a plugin's code; None if it fails, which is added to the faults."""
        ...


@dataclass
class Catalog(Generic[T]):
    """The parts of one kind. Looking up a name with a slash loads its plugin, iterating loads all plugins.

    A plugin's mapping may be lazy: names and values are read when they are needed.

    Attributes:
        is_valid: Whether a value is of the kind.
    """

    kind: str
    is_valid: Callable[[object], bool]
    loader: Loader
    _built_in: dict[str, tuple[Owner, Mapping[str, T], str]] = field(default_factory=dict)
    _offers: dict[str, tuple[Owner, Offer]] = field(default_factory=dict)
    _listed: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, owner: Owner, offer: Offer) -> None:
        if owner.name == BUILT_IN:
            self._built_in |= {name: (owner, offer.items, name) for name in offer.names()}
        else:
            self._offers[owner.name] = (owner, offer)

    def drop(self, plugin: str) -> None:
        """Remove the parts of a plugin that has failed."""
        self._offers.pop(plugin, None)

    def __iter__(self) -> Iterator[str]:
        self.loader.load_all()
        return iter([*self._built_in, *(name for plugin in tuple(self._offers) for name in self.of(plugin))])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def owner(self, name: str) -> Owner:
        """The plugin of an existing name."""
        found = self._find(name)
        if found is None:
            raise KeyError(name)
        return found[0]

    def of(self, plugin: str) -> tuple[str, ...]:
        """The names that a plugin lists; none if it isn't loaded."""
        if plugin == BUILT_IN:
            return tuple(self._built_in)
        if plugin in self._offers and plugin not in self._listed:
            names = self.loader.call_plugin(plugin, self._offers[plugin][1].names) or ()
            self._listed[plugin] = tuple(f"{plugin}/{name}" for name in names)
        return self._listed.get(plugin, ())

    def index(self, plugin: str) -> PartIndex | None:
        """The index of a loaded plugin's parts; None if it has none."""
        return self._offers[plugin][1].index if plugin in self._offers else None

    def get(self, name: str, where: str = "") -> T:
        """The part called `name`.

        Args:
            where: The place of the name, for messages.

        Raises:
            RequestError: The name is unknown, or its plugin fails.
        """
        found = self._find(name)
        if found is None:
            raise self._missing(name, where)
        owner, items, key = found
        if owner.name == BUILT_IN:
            return items[key]
        try:
            value = items[key]
        except FtkitError:
            raise  # a message for users already, such as a missing file
        except (Exception, SystemExit) as error:
            place = plugin_location(error)
            why = reason(error) if place is None else f"{reason(error)} ({place[1]})"
            raise self._failed(name, owner, why) from error
        if not self.is_valid(value):
            raise self._failed(name, owner, f"{value!r} is no {self.kind}")
        return value

    def fault(self, name: str) -> str | None:
        """The error of getting a listed part; None if it can be had."""
        try:
            self.get(name)
        except FtkitError as error:
            return error.message
        return None

    def _find(self, name: str) -> tuple[Owner, Mapping[str, T], str] | None:
        plugin, slash, key = name.partition("/")
        if not slash:
            return self._built_in.get(name)
        self.loader.load(plugin)
        if plugin not in self._offers:
            return None
        owner, offer = self._offers[plugin]
        return (owner, offer.items, key) if self.loader.call_plugin(plugin, lambda: key in offer.items) else None

    def _missing(self, name: str, where: str) -> RequestError:
        plugin, slash, _ = name.partition("/")
        # Listing the names may reveal why the plugin fails.
        self.of(plugin)
        absence = self.loader.why_missing(plugin) if slash else None
        if absence is not None:
            return RequestError(f"{where + ': ' if where else ''}{self.kind} {name!r}: {absence}")
        similar = self._similar(name)
        error = unknown(self.kind, name, similar or self, where)
        if len(similar) > 1:
            few = ", ".join(similar[:FEW]) + (", ..." if len(similar) > FEW else "")
            error.hint = f"known: {few}"
        # Similar names of other plugins don't help unless the plugin's name is misspelt.
        elif slash and not self.loader.has_plugin(plugin) and nearest(plugin, self._plugins()) is None:
            error.hint = f"no plugin {plugin!r} is installed; a package that brings it is called ftkit-{plugin}"
        elif slash and self.loader.has_plugin(plugin) and not similar and nearest(name, self.of(plugin)) is None:
            listed = ", ".join(self.of(plugin)[:FEW])
            error.hint = f"plugin {plugin!r} lists " + (f"{listed}" if listed else f"no {self.kind} here")
        return error

    def _similar(self, name: str) -> list[str]:
        """Similar names that plugins hold without listing them, from the method `similar` of a plugin's mapping."""
        plugin, slash, key = name.partition("/")
        if not slash:
            self.loader.load_all()
            exact = [other for other, (_, offer) in tuple(self._offers.items()) if self._holds(other, offer, name)]
            if exact:
                return [f"{other}/{name}" for other in exact]
            key = name
        found: list[str] = []
        for other in (plugin,) if slash else tuple(self._offers):
            similar = getattr(self._offers[other][1].items, "similar", None) if other in self._offers else None
            names = (self.loader.call_plugin(other, partial(_names, similar, key)) or ()) if similar is not None else ()
            found += [f"{other}/{each}" for each in names]
        return found

    def _holds(self, plugin: str, offer: Offer, key: str) -> bool:
        return bool(self.loader.call_plugin(plugin, lambda: key in offer.items))

    def _plugins(self) -> set[str]:
        return {plugin for plugin, slash, _ in (name.partition("/") for name in self) if slash}

    def _failed(self, name: str, owner: Owner, why: str) -> RequestError:
        return RequestError(f"{self.kind} {name!r}: plugin {owner.name!r} failed: {why}")


def _names(similar: Callable[[str], Iterable[str]], name: str) -> tuple[str, ...]:
    return tuple(similar(name))
