"""Where the `datasets` library keeps its copy of files on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ftkit.api import file_stamp


def cache_of(path: Path) -> str:
    """A folder of its own for each state of a local file or folder.

    The library takes its copy of a local file for current while path and modification time are the same, and its copy
    of a folder of images holds their paths alone.

    Raises:
        OSError: There is nothing at the path.
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
