"""Samples that are image files: their opener, and the paths of the files of a split."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, overload

from ftkit.data.images.reading import open_image
from ftkit.parts.dataset import Split

if TYPE_CHECKING:
    from PIL.Image import Image

_UNUSUAL = re.compile(r"^/|(?:^|/)\.?(?:/|$)")
"""Names that `Path` changes: absolute ones, and those with empty parts or parts that are a single dot."""


@dataclass(frozen=True)
class ImageFiles:
    """Opens samples that are files, by position.

    Attributes:
        root: Folder that the names are relative to.
        names: Paths, one per sample; absolute paths ignore `root`.
    """

    root: Path
    names: Sequence[str] = field(repr=False)

    def __call__(self, index: int) -> Image:
        return open_image(self.root / self.names[index])

    def file(self, index: int) -> Path | None:
        """The file of a sample; None if a subclass changes how it is read."""
        unchanged = type(self).__call__ is ImageFiles.__call__
        return self.root / self.names[index] if unchanged else None


class SampleFiles(Sequence["str | None"]):
    """The absolute path of each sample's file; None for a sample that isn't a file of its own, such as an array.

    Paths are made when they are used, since a million of them would take 100 MB.
    """

    def __init__(self, split: Split) -> None:
        opens, self._places = split.sources()
        self._opens: ImageFiles | None = None
        self._root: str | None = None
        if isinstance(opens, ImageFiles):
            self._opens, kind = opens, type(opens)
            if kind.__call__ is ImageFiles.__call__ and kind.file is ImageFiles.file:
                self._root = str(opens.root.absolute()).rstrip("/")

    @property
    def all_files(self) -> bool:
        """Whether all samples are known to be files."""
        return self._root is not None

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> str | None: ...
    @overload
    def __getitem__(self, index: slice) -> list[str | None]: ...
    def __getitem__(self, index: int | slice) -> str | list[str | None] | None:
        if isinstance(index, slice):
            return [self._path(place) for place in self._places[index]]
        return self._path(self._places[index])

    def __iter__(self) -> Iterator[str | None]:
        return map(self._path, self._places)

    def _path(self, place: int) -> str | None:
        if self._opens is None:
            return None
        if self._root is not None:
            name = self._opens.names[place]
            if not _UNUSUAL.search(name):
                # Path takes five times as long.
                return f"{self._root}/{name}"
        file = self._opens.file(place)
        return None if file is None else str(file.absolute())


def sample_file(split: Split, index: int) -> Path | None:
    """The file of a sample, or None if it isn't a file of its own, such as an array."""
    opens, position = split.source(index)
    return opens.file(position) if isinstance(opens, ImageFiles) else None


def sample_name(split: Split, index: int) -> str:
    """The name of a sample in messages: the path of its file, else its name in the split."""
    file = sample_file(split, index)
    return str(file) if file is not None else split.names[index]
