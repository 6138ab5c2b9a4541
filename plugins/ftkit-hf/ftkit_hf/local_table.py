"""Rows of a table that the `datasets` library has on the local disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.api import Split, UnreadableImage, decode_image, file_stamp, one_line

if TYPE_CHECKING:
    from PIL.Image import Image


class LocalTable:
    """A local split, loaded by the `datasets` library."""

    def __init__(self, table: Any, path: str) -> None:
        self.table = table
        self.path = path
        self.features: Mapping[str, Any] = table.features

    def values(self, column: str) -> list[Any]:
        return list(self.table.with_format(None)[column])

    def split(self, names: Sequence[str], labels: Sequence[int], image: str, label: str) -> Split:
        opens = Rows(_undecoded(self.table.select_columns([image]), image), image, self.path)
        return Split(names, labels, opens, stamp=self._stamp())

    def _stamp(self) -> str | None:
        """The library's fingerprint of the content, and the stamps of its files; None where either is unknown."""
        fingerprint = getattr(self.table, "_fingerprint", None)
        files = [Path(each["filename"]) for each in self.table.cache_files]
        if fingerprint is None or not files:
            return None
        return json.dumps([fingerprint, [(str(file), file_stamp(file).text()) for file in files]])


@dataclass(frozen=True)
class Rows:
    """Opens the image of a row. The table is memory-mapped, so it can be sent to worker processes."""

    table: Any
    column: str
    path: str

    def __call__(self, index: int) -> Image:
        where = f"{self.path}, row {index}"
        try:
            content = _content(self.table[index][self.column])
        except Exception as error:  # the type depends on the file and the network
            raise UnreadableImage(f"{where}: {one_line(str(error))}") from error
        if content is None:
            raise UnreadableImage(f"{where}: no image")
        return decode_image(content, where)


def _undecoded(table: Any, column: str) -> Any:
    """The table with the bytes of image files, which are decoded by `decode_image` like all others."""
    import datasets

    return table.cast_column(column, datasets.Image(decode=False))


def _content(value: Any) -> bytes | None:
    """The bytes of an image file, from the table or from the path that it holds."""
    if value is None or (value.get("bytes") is None and not value.get("path")):
        return None
    if value["bytes"] is not None:
        return bytes(value["bytes"])
    if Path(value["path"]).is_file():
        return Path(value["path"]).read_bytes()
    from datasets.utils.file_utils import xopen

    # In an archive, or at a URL.
    with xopen(value["path"], "rb") as file:
        return bytes(file.read())
