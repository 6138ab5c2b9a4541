"""JSON as every parser takes it: what `--json` prints, and the files of a run, a model and the caches.

JSON has neither NaN nor infinities, though Python's `json` writes them; here they become null. Bytes of a file name
that are not UTF-8 are surrogates in Python (PEP 383); here they become the escapes `\\udc80` to `\\udcff`, which
`json.loads` gives back as they were: `os.fsencode(name)` is the name's bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any


def dump_json(
    value: Any, *, indent: int | None = None, ascii_only: bool = True, default: Callable[[Any], Any] | None = None
) -> str:
    """A value as strict JSON, without a line break at the end.

    Args:
        ascii_only: Escape all other characters, so that the text is the same in every encoding; else those that are
            no text alone are escaped, and the text can be written as UTF-8.
        default: As in `json.dumps`, for values that JSON has no form for.
    """
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=ascii_only, allow_nan=False, default=default)
    except ValueError:
        text = json.dumps(
            replace_nonfinite(value), indent=indent, ensure_ascii=ascii_only, allow_nan=False, default=default
        )
    return text if ascii_only else escape_undecodable(text)


def replace_nonfinite(value: Any) -> Any:
    """The value with None for each number that is not finite, in mappings and sequences too."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_key(key): replace_nonfinite(item) for key, item in value.items()}
    return [replace_nonfinite(item) for item in value] if isinstance(value, list | tuple) else value


def _key(key: Any) -> Any:
    return str(key) if isinstance(key, float) and not math.isfinite(key) else key


def escape_undecodable(text: str) -> str:
    r"""The text as any UTF-8 file takes it: bytes of a name that are no text become `\udc80` to `\udcff`, written out.

    It is the same spelling as in JSON, where it is an escape.
    """
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
