"""Which plugin an exception comes from, and the one line that says so.

A plugin's code runs in many places: while data is found, in the processes and threads that read images, inside a
network. Its exceptions are known by the files that they come from, so that no caller needs to know whose code it is.
Those of built-in parts stay as they are: they are faults of ftkit.
"""

from __future__ import annotations

import functools
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from ftkit.errors import FtkitError, one_line

OURS = "ftkit"
DEBUG_HINT = "mend the plugin, or leave it out; --debug shows the traceback"
LONGEST = 500
"""Characters of a plugin's own message; some hold a whole file."""

_PLACES: dict[str, str] = {}
"""By file or folder, the latter with a slash at its end, the plugin whose code is there, of those that are imported."""
_NO_MEMORY = re.compile(r"out of memory|(can't|[Cc]annot) allocate memory|alloc failed")


class PluginError(FtkitError):
    """A plugin's own code has raised an exception while it was used."""


def register_plugin_path(plugin: str, module: ModuleType) -> None:
    """Remember where a plugin's code is: the whole package that its module is in, or the module's file."""
    top = sys.modules.get(module.__name__.partition(".")[0], module)
    for found in (top, module):
        if getattr(found, "__file__", None) and found.__name__ != OURS:
            place = Path(str(found.__file__))
            _PLACES[f"{place.parent}/" if hasattr(found, "__path__") else str(place)] = plugin
            return


def plugin_of(owner: object) -> str | None:
    """The plugin that defines a function, a class or an instance's class; None for built-in and unknown ones."""
    while isinstance(owner, functools.partial):
        owner = owner.func
    named = owner if isinstance(owner, type) or hasattr(owner, "__qualname__") else type(owner)
    module = sys.modules.get(str(getattr(named, "__module__", "")))
    return _plugin_at(str(getattr(module, "__file__", "")))


def plugin_location(error: BaseException) -> tuple[str, str] | None:
    """The plugin that an exception comes from and where in it, as `/x/leaves.py:12, in load`; None for no plugin's."""
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        plugin = _plugin_at(frame.f_code.co_filename)
        if plugin is not None:
            found = plugin, f"{frame.f_code.co_filename}:{line}, in {frame.f_code.co_name}"
    return found


def plugin_suffix(error: BaseException) -> str:
    """The plugin that an exception comes from and where in it, to put behind a message; empty for no plugin's."""
    place = plugin_location(error)
    return "" if place is None else f" (plugin {place[0]!r}, {place[1]})"


def plugin_error_for(error: BaseException, doing: str = "", owner: object = None) -> PluginError | None:
    """The error that says which plugin failed, in what, with which error, and where; None where none did.

    Args:
        doing: What the plugin was asked for.
        owner: Whose code was called, for exceptions that none of its lines have raised.
    """
    if owner is None and is_out_of_memory(error):
        return None  # A network that is too large for a machine is no fault of its plugin.
    place = plugin_location(error)
    plugin = place[0] if place is not None else plugin_of(owner)
    if plugin is None:
        return None
    where = f" ({place[1]})" if place is not None else ""
    return PluginError(
        f"plugin {plugin!r} failed{f' in {doing}' if doing else ''}: {describe_exception(error)}{where}", DEBUG_HINT
    )


class plugin_boundary:  # noqa: N801 - used like a function, as contextlib's are
    """While a plugin's code may run: what it raises becomes a `PluginError`.

    Errors that are meant for users pass, as does Ctrl-C.

    Args:
        doing: As in `plugin_error_for`; a function where it changes meanwhile.
        owner: As in `plugin_error_for`.
    """

    def __init__(self, doing: str | Callable[[], str], owner: object = None) -> None:
        self._doing = doing
        self._owner = owner

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is None or isinstance(error, FtkitError | KeyboardInterrupt | GeneratorExit):
            return
        failure = plugin_error_for(error, self._doing if isinstance(self._doing, str) else self._doing(), self._owner)
        if failure is not None:
            raise failure from error


def describe_exception(error: BaseException) -> str:
    """An exception in one line: its kind and its text."""
    try:
        text = one_line(" ".join(str(error).split()))
    except Exception:
        text = "its text can't be had"  # `__str__` may be anybody's code too
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; torch's own class for that would have to be imported, and is that of GPUs alone."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError) and _NO_MEMORY.search(str(error)) is not None
    )


def is_unreadable_image(error: FtkitError) -> bool:
    """Whether a plugin's error says that an image can't be read, and not that the plugin is at fault."""
    cause = error.__cause__
    return isinstance(cause, OSError | ValueError | EOFError) and not is_out_of_memory(cause)


def with_traceback(error: FtkitError) -> FtkitError:
    """The error with its traceback as a note, which comes along to another process."""
    error.add_note("".join(traceback.format_exception(error)).rstrip())
    return error


class GuardedOpener:
    """What opens a plugin's images: its exceptions name the plugin, the data and the image.

    Attributes:
        opens: The plugin's own.
        names: Of the samples, by position.
        source: How messages call the data.
    """

    def __init__(self, opens: Callable[[int], Any], names: Any, source: str) -> None:
        self.opens = opens
        self.names = names
        self.source = source

    def __call__(self, index: int) -> Any:
        from PIL.Image import Image

        try:
            image = self.opens(index)
        except (FtkitError, KeyboardInterrupt):
            raise
        except BaseException as error:
            failure = plugin_error_for(error, self._doing(index), self.opens)
            if failure is None:
                raise
            raise failure from error
        if not isinstance(image, Image):
            plugin = plugin_of(self.opens)
            who = f"plugin {plugin!r}" if plugin else self.source
            raise PluginError(
                f"{who} failed in {self._doing(index)}: it opened to {type(image).__name__}, not to a PIL image",
                "return a PIL.Image.Image",
            )
        return image

    def _doing(self, index: int) -> str:
        return f"opening {self.names[index]} of {self.source}"


def _plugin_at(file: str) -> str | None:
    for place, plugin in _PLACES.items():
        if file == place or (place.endswith("/") and file.startswith(place)):
            return plugin
    return None
