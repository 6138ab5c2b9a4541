"""Where a trained model comes from: this machine, or a plugin."""

from __future__ import annotations

from pathlib import Path

from ftkit.plugins.registry import Registry
from ftkit.runs.run_lookup import find_model


def locate_model(spec: str | None, runs_dir: Path, registry: Registry | None = None) -> Path:
    """The bundle that a person means; what is on this machine comes first.

    Args:
        spec: As `find_model` takes it, or `PLUGIN/ADDRESS` of a plugin that brings models.
        registry: The plugins; by default those that are installed.

    Raises:
        RequestError: Nothing there, or a run that has no model yet.
        FtkitError: The plugin can't fetch it.
    """
    plugin, slash, _ = (spec or "").partition("/")
    if spec and slash and not Path(spec).exists() and not (runs_dir / spec).exists():
        registry = registry or Registry()
        if registry.has_plugin(plugin):
            return find_model(str(registry.models.get(spec)), runs_dir)
    return find_model(spec, runs_dir)
