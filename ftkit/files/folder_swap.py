"""Names of a folder while its new content replaces the last one."""

from __future__ import annotations

from pathlib import Path


def previous_folder(folder: Path) -> Path:
    """Where a folder's last content is kept while a new one takes its place."""
    return folder.with_name(f".{folder.name}-previous")


def current_folder(folder: Path) -> Path:
    """The folder, or its previous content where a kill came in the middle of the exchange."""
    return previous_folder(folder) if not folder.exists() and previous_folder(folder).exists() else folder
