"""Finds a trained model: on this machine, or through a plugin."""

from __future__ import annotations

from pathlib import Path

from ftkit.plugins.registry import Registry
from ftkit.runs.run_lookup import find_model


def locate_model(spec: str | None, runs_dir: Path, registry: Registry | None = None) -> Path:
    """The bundle of a model; those on this machine come first.

    Args:
        spec: What `find_model` takes, or `PLUGIN/ADDRESS` for a plugin with models.
        registry: The registry; by default that of the installed plugins.

    Raises:
        RequestError: There is no such model, or the run has none yet.
        FtkitError: The plugin can't provide it.
    """
    plugin, slash, _ = (spec or "").partition("/")
    if spec and slash and not Path(spec).exists() and not (runs_dir / spec).exists():
        registry = registry or Registry()
        if registry.has_plugin(plugin):
            return find_model(str(registry.models.get(spec)), runs_dir)
    return find_model(spec, runs_dir)
