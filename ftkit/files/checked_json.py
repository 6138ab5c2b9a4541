"""JSON files of the cache folder that are complete, undamaged and of the current version, or count as missing."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from ftkit.files.json_text import dump_json


def read_checked(path: Path, key: str) -> Any | None:
    """The value that was written with this key; None if there is none, or the file is damaged."""
    with suppress(OSError, ValueError):
        digest, _, rest = path.read_bytes().partition(b"\n")
        stored, _, text = rest.partition(b"\n")
        if digest == _digest(rest) and stored == key.encode():
            return json.loads(text)
    return None


def write_checked(path: Path, key: str, value: Any) -> None:
    """Replace a file by a value and its key, which is one line. Readers see the old file or the new one.

    Raises:
        OSError: The folder can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = key.encode() + b"\n" + dump_json(value).encode()
    # Several processes may write it; tempfile's files could be read by their owner alone.
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(_digest(content) + b"\n" + content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
