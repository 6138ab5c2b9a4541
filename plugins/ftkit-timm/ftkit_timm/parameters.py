"""Numbers of parameters of timm's architectures, from a table that `scripts/count_parameters.py` generates.

Counting all of them takes minutes. The table has them by source file of timm, with the file's digest, so that a count
is used only for the code that it was made with.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import timm

TABLE = Path(__file__).with_suffix(".json")


def parameters_of(architecture: str) -> int | None:
    """Number of parameters without the classifier; None if timm's source has changed since they were counted."""
    return _counts(source_of(architecture)).get(architecture)


def source_of(architecture: str) -> str:
    """The source file of an architecture, without its suffix."""
    module: str = timm.model_entrypoint(architecture).__module__
    return module.rpartition(".")[2]


@cache
def source_digest(source: str) -> str:
    """Digest of a source file of timm's models; empty for networks that others registered."""
    file = Path(timm.__file__).parent / "models" / f"{source}.py"
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else ""


@cache
def _table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))["sources"]
    return found


@cache
def _counts(source: str) -> dict[str, int]:
    row = _table().get(source)
    return row["parameters"] if row is not None and row["digest"] == source_digest(source) else {}
