"""Finds plugins and offers what they bring; a typed face over pluggy.

Built-in plugins are registered through the same hooks as everybody else's. Each entry point is loaded by
itself and guarded, so that one broken plugin can't take the program down; its error is kept, shown once,
and shown again when something of that plugin is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

import pluggy

from ftkit import hooks
from ftkit.errors import RequestError, unknown
from ftkit.spec.backbone import Backbone
from ftkit.spec.dataset import Dataset
from ftkit.spec.strategy import Strategy

BUILTIN = (
    "ftkit.builtin.lenet",
    "ftkit.builtin.cifar_resnet",
    "ftkit.builtin.torchvision_models",
    "ftkit.builtin.digits",
    "ftkit.builtin.folder",
    "ftkit.builtin.archive",
    "ftkit.builtin.csv_file",
    "ftkit.builtin.torchvision_datasets",
    "ftkit.builtin.strategies",
)
GROUP = "ftkit"

T = TypeVar("T")


@dataclass(frozen=True)
class Owner:
    """The plugin that something comes from; built-ins have the name `ftkit`."""

    name: str
    package: str
    version: str


@dataclass(frozen=True)
class Fault:
    """Why a plugin, or a part of it, isn't there."""

    plugin: str
    reason: str

    def __str__(self) -> str:
        return (
            f"plugin {self.plugin!r} is left out: {self.reason} "
            f"(mend or uninstall it, or set FTKIT_DISABLE_PLUGINS={self.plugin})"
        )


@dataclass
class Catalog(Generic[T]):
    """Everything of one kind, by name. Values of a plugin are taken from its mapping when asked for."""

    kind: str
    faults: list[Fault]
    _entries: dict[str, tuple[Owner, Mapping[str, T], str]] = field(default_factory=dict)

    def add(self, owner: Owner, items: Mapping[str, T]) -> None:
        for key in items:
            name = key if owner.name == GROUP else f"{owner.name}/{key}"
            self._entries[name] = (owner, items, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._entries

    def owner(self, name: str) -> Owner:
        return self._entries[name][0]

    def get(self, name: str, where: str = "") -> T:
        """The value called `name`; `where` says in messages where the name was given.

        Raises:
            RequestError: No such name, with the nearest one, or with its plugin's own error.
        """
        if name not in self._entries:
            for fault in self.faults:
                if name.startswith(f"{fault.plugin}/"):
                    raise RequestError(f"{where + ': ' if where else ''}{self.kind} {name!r}: {fault}")
            raise unknown(self.kind, name, self._entries, where)
        owner, items, key = self._entries[name]
        if owner.name == GROUP:
            return items[key]
        try:
            return items[key]
        except Exception as error:
            raise RequestError(f"{self.kind} {name!r}: plugin {owner.name!r} failed: {_reason(error)}") from error


class Registry:
    """All backbones, datasets and strategies: built in, installed, and of the project's own files.

    Args:
        project_plugins: Paths of plugin files, absolute, as `plugins:` in the config names them.
    """

    def __init__(self, project_plugins: tuple[Path, ...] = ()) -> None:
        self.faults: list[Fault] = []
        self.backbones: Catalog[Backbone] = Catalog("backbone", self.faults)
        self.datasets: Catalog[type[Dataset]] = Catalog("dataset", self.faults)
        self.strategies: Catalog[type[Strategy]] = Catalog("strategy", self.faults)
        self.owners: dict[str, Owner] = {}
        self._disabled = {n for n in os.environ.get("FTKIT_DISABLE_PLUGINS", "").split(",") if n}
        self._load_builtin()
        for path in project_plugins:
            self._load_file(path)
        for entry in entry_points(group=GROUP):
            self._load_entry(entry)

    def _load_builtin(self) -> None:
        owner = Owner(GROUP, GROUP, _version(GROUP))
        for name in BUILTIN:
            self._register(owner, importlib.import_module(name))

    def _load_file(self, path: Path) -> None:
        name = path.stem.replace("_", "-")
        if name in self._disabled:
            return
        source = path / "__init__.py" if path.is_dir() else path
        if not source.is_file():
            raise RequestError(
                f"plugins: no file {path}", "give the path of a Python file, relative to the config file"
            )
        self._guarded(Owner(name, str(path), ""), lambda: _import_file(path.stem, source))

    def _load_entry(self, entry: EntryPoint) -> None:
        if entry.name in self._disabled or entry.name in self.owners:
            return
        dist = entry.dist
        owner = Owner(entry.name, dist.name if dist else "", dist.version if dist else "")
        self._guarded(owner, entry.load)

    def _guarded(self, owner: Owner, load: object) -> None:
        try:
            self._register(owner, load())  # type: ignore[operator]
        except (Exception, SystemExit) as error:
            self.faults.append(Fault(owner.name, _reason(error)))

    def _register(self, owner: Owner, plugin: ModuleType) -> None:
        manager = pluggy.PluginManager(hooks.PROJECT)
        manager.add_hookspecs(hooks)
        manager.register(plugin, name=owner.name)
        manager.check_pending()
        found = [
            (catalog, items)
            for catalog, hook in (
                (self.backbones, manager.hook.ftkit_backbones),
                (self.datasets, manager.hook.ftkit_datasets),
                (self.strategies, manager.hook.ftkit_strategies),
            )
            for items in hook()
        ]
        for catalog, items in found:
            catalog.add(owner, items)
        self.owners.setdefault(owner.name, owner)


def _import_file(name: str, source: Path) -> ModuleType:
    """Import one file under its own name, so that its classes can be pickled for worker processes."""
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(source):
        return loaded
    spec = importlib.util.spec_from_file_location(name, source)
    if spec is None or spec.loader is None:
        raise ImportError(f"{source} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
