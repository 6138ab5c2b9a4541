"""The hooks that a plugin may implement. A plugin is a module with one or more of these functions.

    from ftkit.api import hookimpl

    @hookimpl
    def ftkit_strategies():
        return {"first-layers": FirstLayers}

Built-in names are short; a plugin's are prefixed with its own: `my-plugin/first-layers`.
"""

from __future__ import annotations

from collections.abc import Mapping

import pluggy

from ftkit.spec.backbone import Backbone
from ftkit.spec.dataset import Dataset
from ftkit.spec.strategy import Strategy

PROJECT = "ftkit"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def ftkit_backbones() -> Mapping[str, Backbone]:  # type: ignore[empty-body]
    """Backbones by name. The mapping may be lazy: a value is taken only when it is needed."""


@hookspec
def ftkit_datasets() -> Mapping[str, type[Dataset]]:  # type: ignore[empty-body]
    """Dataset classes by name; the fields of each are its options."""


@hookspec
def ftkit_strategies() -> Mapping[str, type[Strategy]]:  # type: ignore[empty-body]
    """Strategy classes by name; the fields of each are its options."""
