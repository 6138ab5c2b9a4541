"""Digests of the source of modules that aren't installed packages, and of all modules that they import.

A function may use anything from a module that its own module imports. Installed packages are left out: their code
changes with their version.
"""

from __future__ import annotations

import dis
import hashlib
import importlib.util
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from ftkit.files.file_identity import Stamp, file_stamp

LIBRARIES = frozenset({"torch", "torchvision", "numpy", "PIL", *sys.stdlib_module_names})
"""Top-level modules whose versions are recorded separately, or don't decide what a network computes."""


def own_sources(names: Iterable[str]) -> list[list[str]]:
    """Name and digest of these modules and of all that they import, at load or later; without libraries."""
    found: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        file = None if name in found else _own_file(name)
        if file is None:
            continue
        try:
            found[name], imported = _read(file, file_stamp(file), _package(name))
        except (OSError, SyntaxError, ValueError):
            continue  # Importing it fails too, and its user reports that.
        waiting += imported
    return sorted([name, digest] for name, digest in found.items())


def imports(code: types.CodeType, package: str) -> Iterator[str]:
    """The modules that a code object imports while it runs.

    Args:
        package: The package of its module, for relative imports.
    """
    before: list[Any] = [None, None]
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            level, listed = before
            yield from _imported(str(step.argval), level or 0, listed or (), package)
        if step.opname != "EXTENDED_ARG":  # stands before instructions of code with over 255 names or constants
            before = [before[1], step.argval]


def nested_codes(code: types.CodeType) -> list[types.CodeType]:
    """A code object, and those nested in it."""
    inner = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return [code, *(found for each in inner for found in nested_codes(each))]


def is_installed(file: str) -> bool:
    """Whether a file belongs to an installed package."""
    return any(Path(file).is_relative_to(place) for place in _installed_places())


def file_digest(file: str) -> str:
    """Digest of a file's current content; its name where it can't be read."""
    try:
        return _file_digest(file, file_stamp(file))
    except OSError:
        return file


def _imported(name: str, level: int, listed: tuple[str, ...], package: str) -> Iterator[str]:
    try:
        base = importlib.util.resolve_name("." * level + name, package) if level else name
    except ImportError:
        return
    modules = [f"{base}.{each}" for each in listed if _own_file(f"{base}.{each}") is not None]
    yield from modules
    if len(modules) < len(listed) or not listed:
        yield base


def _package(name: str) -> str:
    module = sys.modules.get(name)
    return name if hasattr(module, "__path__") else name.rpartition(".")[0]


def _own_file(name: str) -> str | None:
    """The source file of a module, imported or not; None for libraries, and where there is no such module."""
    if name.partition(".")[0] in (*LIBRARIES, "ftkit"):
        return None
    if name in sys.modules:
        file = getattr(sys.modules[name], "__file__", None)
    else:
        parent = sys.modules.get(name.rpartition(".")[0])
        path = getattr(parent, "__path__", ()) if "." in name else None
        spec = PathFinder.find_spec(name, path)
        file = spec.origin if spec is not None and spec.has_location else None
    return file if file and file.endswith(".py") and not is_installed(file) else None


@lru_cache(maxsize=1000)
def _read(file: str, stamp: Stamp, package: str) -> tuple[str, tuple[str, ...]]:
    """A digest of a source file, and the modules that its code imports."""
    content = Path(file).read_bytes()
    compiled = compile(content, file, "exec", dont_inherit=True)
    imported = dict.fromkeys(name for code in nested_codes(compiled) for name in imports(code, package))
    return hashlib.sha256(content).hexdigest(), tuple(imported)


@lru_cache(maxsize=1000)
def _file_digest(file: str, stamp: Stamp) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


@lru_cache(maxsize=1)
def _installed_places() -> tuple[str, ...]:
    return tuple({sysconfig.get_path(name) for name in ("purelib", "platlib")})
