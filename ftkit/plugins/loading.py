"""Importing and checking one plugin, so that its errors affect nothing else."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any, TypeVar

import pluggy

from ftkit import plugin_errors
from ftkit.errors import nearest
from ftkit.plugin_errors import plugin_location, register_plugin_path
from ftkit.plugins import hookspecs
from ftkit.plugins.discovery import BUILT_IN, Fault, Owner, Source
from ftkit.plugins.kinds import KINDS
from ftkit.plugins.part_index import PartIndex

T = TypeVar("T")

TIME_LIMIT = 30.0
"""Default time limit in seconds for the import of a plugin and for each call of its event hooks."""
TIMEOUT = "FTKIT_PLUGIN_TIMEOUT"
HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("ftkit_"))
CATALOGS = (*(kind.hook for kind in KINDS.values()), "ftkit_commands", "ftkit_templates")
"""The hooks that return parts by name; the others are called at run events."""


class InvalidPlugin(Exception):
    """A module that isn't a valid plugin."""


class _Hooks(pluggy.PluginManager):
    """Examines only the names of hooks. pluggy examines each name of each module, which takes most of the time."""

    def parse_hookspec_opts(self, module_or_class: ModuleType | type, name: str) -> pluggy.HookspecOpts | None:
        return super().parse_hookspec_opts(module_or_class, name) if name in HOOKS else None

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        return super().parse_hookimpl_opts(plugin, name) if name in HOOKS else None


class _TimeUp(BaseException):
    """The time limit; no `Exception`, so that a plugin's `except Exception` doesn't catch it."""


@dataclass(frozen=True)
class Offer:
    """The mapping that a hook returned.

    Its names are read only for lists: there may be thousands, of a library that takes seconds to import. A mapping may
    hold more than it lists.

    Attributes:
        index: The stored names, for a mapping with a method `index_key`.
    """

    hook: str
    items: Mapping[str, Any]
    index: PartIndex | None = None

    def names(self) -> tuple[str, ...]:
        """The listed names, from the index if there is one. The plugin's code may raise any error.

        Raises:
            InvalidPlugin: A name isn't text.
        """
        return self._names() if self.index is None else tuple(self.index.get("names", self._names))

    def _names(self) -> tuple[str, ...]:
        names = tuple(self.items)
        for name in names:
            if not isinstance(name, str) or not name:
                raise InvalidPlugin(f"{self.hook} offers something called {name!r}; a name is text")
        return names


@dataclass(frozen=True)
class Plugin:
    """A plugin that works.

    Attributes:
        hooks: pluggy's callers of its hooks.
        offers: Its parts, by hook.
        event_hooks: Its hooks of run events.
    """

    owner: Owner
    hooks: pluggy.HookRelay
    offers: Mapping[str, Offer]
    event_hooks: tuple[str, ...]


def load(source: Source, version: str) -> Plugin | Fault:
    """Import a plugin and collect its parts. Errors become a `Fault`, and its output goes to stderr.

    Args:
        version: The version of ftkit, for plugins that require another one.
    """

    def loaded() -> Plugin:
        _require_version(source.requires, version)
        with time_limit(plugin_timeout()):
            return register(source.owner, _import(source))

    try:
        return run_isolated(source.owner.name, loaded)
    except _TimeUp:
        return Fault(
            source.owner.name, f"importing it takes more than {plugin_timeout():g} s ({TIMEOUT} sets the limit)"
        )


def run_isolated(plugin: str, call: Callable[[], T]) -> T | Fault:
    """The result of a plugin's code, or the `Fault` if it fails. Its output goes to stderr."""
    try:
        with redirect_stdout(sys.stderr):
            return call()
    except (Exception, SystemExit) as error:
        place = plugin_location(error)
        return Fault(plugin, f"{reason(error)} ({place[1]})" if place is not None else reason(error))


def register(owner: Owner, module: ModuleType) -> Plugin:
    """Check a plugin's hooks and collect its parts.

    Raises:
        InvalidPlugin: It has no hook, an unknown one, or one that doesn't return a mapping.
        Exception: Any error of its hooks.
    """
    if owner.name != BUILT_IN:
        register_plugin_path(owner.name, module)
    mine = _own_hooks(module)
    manager = _Hooks(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(module, name=owner.name)
    offers = {name: _offered(name, call(), owner, module) for name, call in _calls(manager, mine, CATALOGS)}
    return Plugin(owner, manager.hook, offers, tuple(name for name in mine if name not in CATALOGS))


def reason(error: BaseException) -> str:
    """An error in one line, with its class unless it is `InvalidPlugin`."""
    found = plugin_errors.describe_exception(error)
    return found.partition(": ")[2] if isinstance(error, InvalidPlugin) else found


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise in the block after a time limit; in the main thread only, where Python can interrupt itself."""
    if threading.current_thread() is not threading.main_thread() or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, stop)
    # Repeated, in case an `except:` of the plugin catches the first one.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def plugin_timeout() -> float:
    """Time limit in seconds for the import of a plugin or one call of an event hook."""
    try:
        seconds = float(os.environ.get(TIMEOUT, ""))
    except ValueError:
        return TIME_LIMIT
    return seconds if seconds > 0 else TIME_LIMIT


def _require_version(requires: str, version: str) -> None:
    from packaging.specifiers import SpecifierSet

    if version and not SpecifierSet(requires).contains(version, prereleases=True):
        raise InvalidPlugin(f"it needs ftkit{requires}, and this is ftkit {version}")


def _import(source: Source) -> ModuleType:
    if source.file is not None:
        path = source.file / "__init__.py" if source.file.is_dir() else source.file
        return import_file(source.file.stem, path)
    assert source.entry is not None, "a source is a file or an entry point"
    loaded = source.entry.load()
    if not inspect.ismodule(loaded):
        raise InvalidPlugin(f"its entry point {source.entry.value} is no module")
    return loaded


def import_file(name: str, path: Path) -> ModuleType:
    """Import one file under its own name, so that its classes can be pickled for worker processes.

    A file that was edited since its import is imported again.
    """
    source = _source_digest(path)
    loaded = sys.modules.get(name)
    if loaded is not None and (getattr(loaded, "__file__", None), _SOURCES.get(name)) == (str(path), source):
        return loaded
    spec = importlib.util.spec_from_file_location(name, path, loader=_FromSource(name, str(path)))
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    for part in [each for each in sys.modules if each.startswith(f"{name}.")] if name in _SOURCES else ():
        del sys.modules[part]
    sys.modules[name], _SOURCES[name] = module, source
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name], _SOURCES[name]
        raise
    return module


class _FromSource(SourceFileLoader):
    """Always compiles the source: Python compares compiled code with it only by size and whole second."""

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


_SOURCES: dict[str, str] = {}
"""Digests of imported files, by module name."""


def _source_digest(path: Path) -> str:
    """Digest of a module's file, or of all Python files of a package."""
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    with suppress(OSError):  # the import reports the error
        return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
    return ""


def _own_hooks(module: ModuleType) -> list[str]:
    """The hooks that a module implements. Unmarked functions, which pluggy would ignore, are errors."""
    functions = {name: f for name, f in vars(module).items() if callable(f)}
    marked = [name for name, f in functions.items() if getattr(f, f"{hookspecs.PROJECT}_impl", None) is not None]
    for name in marked:
        if name not in HOOKS:
            close = nearest(name, HOOKS)
            raise InvalidPlugin(f"there is no hook {name}" + (f", did you mean {close}?" if close else ""))
    for name in functions:
        if name in HOOKS and name not in marked:
            raise InvalidPlugin(f"{name} is not marked: write @hookimpl above it")
    if not marked:
        raise InvalidPlugin("it implements no hook")
    return marked


def _calls(manager: pluggy.PluginManager, mine: list[str], names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name in names:
        if name in mine:
            yield name, getattr(manager.hook, name)


def _offered(hook: str, results: list[Any], owner: Owner, module: ModuleType) -> Offer:
    """The mapping that a hook's implementation returned; pluggy drops None."""
    items = results[0] if results else None
    if not isinstance(items, Mapping):
        raise InvalidPlugin(f"{hook} returned {type(items).__name__}, not a mapping of names")
    if not hasattr(items, "index_key"):
        return Offer(hook, items)
    return Offer(hook, items, PartIndex(owner, hook, _source_digest(Path(module.__file__ or "")), items))
