"""Find the plugin that an exception comes from, and raise a one-line error that names it.

Plugin code runs in many places: while data is loaded, in the processes and threads that read images, inside a network.
The files in an exception's traceback identify the plugin. Exceptions of built-in parts are left unchanged: they are
bugs of ftkit.
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
DEBUG_HINT = "fix or disable the plugin; --debug shows the traceback"
LONGEST = 500
"""Characters of an exception's text that are shown; some texts contain a whole file."""

_PLUGIN_PATHS: dict[str, str] = {}
"""The imported plugins by the path of their code: a file, or a folder with a slash at its end."""
_REQUESTED_BYTES = re.compile(r"(?<=allocate )[\d.]+ (bytes|[KMGT]i?B)")
_NO_MEMORY = re.compile(r"out of memory|(can't|[Cc]annot) allocate memory|alloc failed")


class PluginError(FtkitError):
    """The code of a plugin has raised an exception."""


def register_plugin_path(plugin: str, module: ModuleType) -> None:
    """Record where the code of a plugin is: the top-level package of its module, or the module's file."""
    top = sys.modules.get(module.__name__.partition(".")[0], module)
    for found in (top, module):
        if getattr(found, "__file__", None) and found.__name__ != OURS:
            place = Path(str(found.__file__))
            _PLUGIN_PATHS[f"{place.parent}/" if hasattr(found, "__path__") else str(place)] = plugin
            return


def plugin_of(owner: object) -> str | None:
    """The plugin that defines a function, a class, or the class of an instance; None for built-in and unknown ones."""
    while isinstance(owner, functools.partial):
        owner = owner.func
    named = owner if isinstance(owner, type) or hasattr(owner, "__qualname__") else type(owner)
    module = sys.modules.get(str(getattr(named, "__module__", "")))
    return _plugin_at(str(getattr(module, "__file__", "")))


def plugin_location(error: BaseException) -> tuple[str, str] | None:
    """The plugin that an exception comes from, and the line such as `/x/leaves.py:12, in load`; None for other code."""
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        plugin = _plugin_at(frame.f_code.co_filename)
        if plugin is not None:
            found = plugin, f"{frame.f_code.co_filename}:{line}, in {frame.f_code.co_name}"
    return found


def plugin_suffix(error: BaseException) -> str:
    """Text to append to a message: the plugin that an exception comes from, and the line; empty for other code."""
    place = plugin_location(error)
    return "" if place is None else f" (plugin {place[0]!r}, {place[1]})"


def plugin_error_for(error: BaseException, doing: str = "", owner: object = None) -> PluginError | None:
    """The one-line error for an exception that comes from a plugin; None where it comes from other code.

    Args:
        doing: What the plugin was doing, such as `load()`.
        owner: The object that was called, for exceptions whose traceback has no line of the plugin.
    """
    if owner is None and is_out_of_memory(error):
        return None  # Running out of memory is not an error of the plugin.
    place = plugin_location(error)
    plugin = place[0] if place is not None else plugin_of(owner)
    if plugin is None:
        return None
    where = f" ({place[1]})" if place is not None else ""
    return PluginError(
        f"plugin {plugin!r} failed{f' in {doing}' if doing else ''}: {describe_exception(error)}{where}", DEBUG_HINT
    )


class plugin_boundary:  # noqa: N801 - used like a function, as those of contextlib
    """A context in which exceptions of plugin code become a `PluginError`; an `FtkitError` or Ctrl-C passes unchanged.

    Args:
        doing: See `plugin_error_for`; a function where the text changes during the context.
        owner: See `plugin_error_for`.
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
    """The type and text of an exception, on one line."""
    try:
        text = one_line(" ".join(str(error).split()))
    except Exception:
        text = "its text is not available"  # `__str__` may raise too
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. `torch.OutOfMemoryError` would need torch, and covers GPUs only."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError) and _NO_MEMORY.search(str(error)) is not None
    )


def memory_error(error: BaseException) -> str:
    """That memory ran out, with the size that was asked for where the error has it."""
    size = _REQUESTED_BYTES.search(" ".join(str(error).split()))
    return f"out of memory{f': could not allocate {size[0]}' if size else ''}"


def is_unreadable_image(error: FtkitError) -> bool:
    """Whether an error means that an image can't be read, rather than a bug of the plugin."""
    cause = error.__cause__
    return isinstance(cause, OSError | ValueError | EOFError) and not is_out_of_memory(cause)


def with_traceback(error: FtkitError) -> FtkitError:
    """Add the traceback as a note, which is kept when the error is sent to another process."""
    error.add_note("".join(traceback.format_exception(error)).rstrip())
    return error


class GuardedOpener:
    """Opens images by a plugin's code; errors name the plugin, the data and the image.

    Attributes:
        opens: The plugin's function.
        names: Names of the samples, by position.
        source: Name of the data in messages.
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
                f"{who} failed in {self._doing(index)}: it returned {type(image).__name__}, not a PIL image",
                "return a PIL.Image.Image",
            )
        return image

    def _doing(self, index: int) -> str:
        return f"opening {self.names[index]} of {self.source}"


def _plugin_at(file: str) -> str | None:
    for place, plugin in _PLUGIN_PATHS.items():
        if file == place or (place.endswith("/") and file.startswith(place)):
            return plugin
    return None
