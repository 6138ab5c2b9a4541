"""Cache folders of the `datasets` library for local files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ftkit.api import file_stamp


def cache_of(path: Path) -> str:
    """A cache folder for the current content of a local file or folder.

    The library would use an outdated copy where path and modification time are the same, and its copy of a folder of
    images holds only paths.

    Raises:
        OSError: The path doesn't exist.
    """
    import datasets

    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(f"{file}\0{file_stamp(file).text()}\n".encode("utf-8", "surrogatepass"))
    return str(Path(datasets.config.HF_DATASETS_CACHE) / f"ftkit-{digest.hexdigest()[:32]}")


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path.absolute()
        return
    yield from sorted(file for file in path.absolute().rglob("*") if file.is_file())
