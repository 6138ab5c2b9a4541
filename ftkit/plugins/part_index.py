"""Stored lists of the parts of plugins whose mapping takes long to read, such as the networks of a large library."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from ftkit.errors import RequestError
from ftkit.files.checked_json import read_checked, write_checked
from ftkit.files.user_cache import cache_folder
from ftkit.plugins.discovery import Owner

T = TypeVar("T")
FORMAT = 1
"""Version of what is stored."""
FOLDER = "lists"


@dataclass
class PartIndex:
    """What lists show of a plugin's parts of one kind, in the cache folder.

    The plugin's mapping has a method `index_key`, whose text changes whenever its names or values may change. What was
    stored for another key, another version of the plugin or other code of it isn't used.

    Attributes:
        code: Digest of the plugin's code.
        items: The plugin's mapping.
        problem: Why the index can't be stored; None if it can.
    """

    owner: Owner
    hook: str
    code: str
    items: Mapping[str, Any]
    problem: str | None = field(default=None, init=False)

    @cached_property
    def key(self) -> str:
        """Digest of everything that the stored lists depend on. The plugin's code may raise any error.

        Raises:
            TypeError: `index_key` returned something other than text.
        """
        own = self.items.index_key()  # type: ignore[attr-defined]
        if not isinstance(own, str):
            raise TypeError(f"index_key of {self.hook} returned {own!r}, not text")
        facts = (str(FORMAT), self.owner.package, self.owner.version, self.code, own)
        return hashlib.sha256("\0".join(facts).encode()).hexdigest()

    def get(self, what: str, make: Callable[[], T]) -> T:
        """The stored value called `what`; it is made and stored if there is none."""
        found = self.read(what)
        if found is None:
            found = make()
            self.write(what, found)
        return found

    def read(self, what: str) -> Any | None:
        """The stored value called `what`; None if there is none for the current key, or it is damaged."""
        key = self.key
        try:
            return read_checked(cache_folder() / FOLDER / self._file(what), key)
        except RequestError:  # no cache folder; `write` reports it
            return None

    def write(self, what: str, value: Any) -> None:
        """Store a value; if that fails, `problem` has the reason."""
        try:
            write_checked(cache_folder() / FOLDER / self._file(what), self.key, value)
        except (OSError, RequestError) as error:
            reason = getattr(error, "strerror", None) or error
            self.problem = f"the list of plugin {self.owner.name!r} isn't stored, so each list takes as long: {reason}"

    def _file(self, what: str) -> str:
        return f"{self.owner.name}-{self.hook.removeprefix('ftkit_')}-{what}.json"
