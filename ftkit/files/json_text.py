"""Strict JSON, for `--json` and for the files of runs, models and caches.

NaN and infinities, which JSON doesn't have, become null. Bytes of a file name that aren't UTF-8 are surrogates in
Python (PEP 383) and are written as the escapes `\\udc80` to `\\udcff`; `os.fsencode` of a loaded name gives its bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any


def dump_json(
    value: Any, *, indent: int | None = None, ascii_only: bool = True, default: Callable[[Any], Any] | None = None
) -> str:
    """Serialise a value to strict JSON, without a trailing newline.

    Args:
        ascii_only: Escape every non-ASCII character; otherwise only those that can't be encoded as UTF-8.
        default: The argument of `json.dumps` for values that aren't JSON types.
    """
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=ascii_only, allow_nan=False, default=default)
    except ValueError:
        text = json.dumps(
            replace_nonfinite(value), indent=indent, ensure_ascii=ascii_only, allow_nan=False, default=default
        )
    return text if ascii_only else escape_undecodable(text)


def replace_nonfinite(value: Any) -> Any:
    """Replace NaN and infinities by None, in mappings and sequences too."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_key(key): replace_nonfinite(item) for key, item in value.items()}
    return [replace_nonfinite(item) for item in value] if isinstance(value, list | tuple) else value


def _key(key: Any) -> Any:
    return str(key) if isinstance(key, float) and not math.isfinite(key) else key


def escape_undecodable(text: str) -> str:
    r"""Replace characters that can't be encoded as UTF-8 by the text `\udc80` to `\udcff`, spelt as in JSON."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
