"""Names of a folder while its new content replaces the last one."""

from __future__ import annotations

from pathlib import Path


def previous(folder: Path) -> Path:
    """Where a folder's last content is kept while a new one takes its place."""
    return folder.with_name(f".{folder.name}-previous")


def present(folder: Path) -> Path:
    """The folder, or its previous content where a kill came in the middle of the exchange."""
    return previous(folder) if not folder.exists() and previous(folder).exists() else folder
