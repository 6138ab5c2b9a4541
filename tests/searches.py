"""Few images, and what a search among recipes has found on their folds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FEW = {"a": 8, "b": 7, "c": 5}
"""Training images of each class."""


def search_of(run: Path) -> dict[str, Any]:
    """The content of `search.json`."""
    content: dict[str, Any] = json.loads((run / "search.json").read_text())
    return content


def without_seconds(search: dict[str, Any]) -> dict[str, Any]:
    """The same without measured times, of which only the number stays."""
    return {**search, "trials": [{**trial, "seconds": len(trial["seconds"])} for trial in search["trials"]]}
