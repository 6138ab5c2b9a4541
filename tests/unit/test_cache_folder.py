"""The folder of cached tables."""

from __future__ import annotations

import json
from pathlib import Path

from ftkit.files.cache_folder import CacheStore


def test_tables_of_an_earlier_format_make_room_and_are_never_read(tmp_path: Path) -> None:
    store = CacheStore(tmp_path / "tables", 10_000)
    old = store.folder / "v2-aa"
    old.mkdir(parents=True)
    (old / "data").write_bytes(bytes(8192))
    (old / "lock").touch()
    (old / "table.json").write_text(
        json.dumps({"description": "old", "metadata": {"cut": "x", "prefix": "y"}, "last_used": 1})
    )
    (entry,) = store.entries()
    assert not entry.metadata
    assert not store.has("aa")
    _, lock = store.reserve("bb", "new", 4096, 1)
    lock.close()
    assert not old.exists()
