"""Built-in and third-party plugins, discovered without importing them and loaded on demand.

`discovery` lists them, `loading` imports and checks one, `catalog` and `registry` look up their parts. A plugin that
can't be loaded is a `Fault`, reported once, and again when one of its parts is requested.

Names are imported when they are first used, since `ftkit --help` imports only `discovery`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftkit.plugins.catalog import Catalog
    from ftkit.plugins.discovery import BUILT_IN, Fault, Owner
    from ftkit.plugins.loading import Plugin
    from ftkit.plugins.registry import Registry

__all__ = ["BUILT_IN", "Catalog", "Fault", "Owner", "Plugin", "Registry"]

_HOMES = {"Catalog": "catalog", "Plugin": "loading", "Registry": "registry"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'ftkit.plugins' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"ftkit.plugins.{_HOMES.get(name, 'discovery')}"), name)
