"""Where the content of a folder is while `replace_folder` replaces it."""

from __future__ import annotations

from pathlib import Path


def previous_folder(folder: Path) -> Path:
    """Where the old content is kept during a replacement."""
    return folder.with_name(f".{folder.name}-previous")


def current_folder(folder: Path) -> Path:
    """The folder, or its previous content where a replacement was interrupted."""
    return previous_folder(folder) if not folder.exists() and previous_folder(folder).exists() else folder
