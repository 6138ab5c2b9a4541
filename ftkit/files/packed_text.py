"""Many strings in one, for the names of a million images."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import overload


class PackedText(Sequence[str]):
    """An immutable sequence of strings without a Python object for each: 8 bytes and the text per string.

    A list takes about 65 bytes more per string. Worker processes share a `PackedText`, but soon have copies of a list,
    since each use of an item writes its reference count.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        texts = texts if isinstance(texts, list | tuple) else list(texts)
        self._text = "".join(texts)
        self._ends = array("q", accumulate(map(len, texts), initial=0))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> PackedText: ...
    def __getitem__(self, index: int | slice) -> str | PackedText:
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        place = range(len(self))[index]
        return self._text[self._ends[place] : self._ends[place + 1]]

    def __iter__(self) -> Iterator[str]:
        text = self._text
        return (text[start:end] for start, end in pairwise(self._ends))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackedText):
            return self._ends == other._ends and self._text == other._text
        return list(self) == list(other) if isinstance(other, list | tuple) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        few = ", ".join(map(repr, self[:4])) + (", ..." if len(self) > 4 else "")
        return f"PackedText([{few}])"

    def take(self, indices: Iterable[int]) -> PackedText:
        """The strings at `indices`, in that order."""
        return PackedText([self[index] for index in indices])
