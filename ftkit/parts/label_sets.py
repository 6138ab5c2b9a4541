"""The labels of a split: one class per image, or the set of classes of each image (multi-label)."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Label = int | tuple[int, ...]
"""Index of a class, or the ascending indices of all classes of an image, which may be none."""

SEPARATOR = "|"
"""Between the classes of one image in `splits.csv` and in messages."""


class LabelSets(Sequence[tuple[int, ...]]):
    """The classes of each image of a multi-label split, as ascending tuples of class indices.

    They are stored in two arrays, 8 bytes per image and 4 bytes per label.

    Args:
        sets: Class indices of each image, in any order; duplicates are removed.
        num_classes: Number of classes.

    Attributes:
        offsets: Image `i` has `values[offsets[i]:offsets[i + 1]]`, int64 `(n + 1,)`.
        values: Class indices, int32.
    """

    def __init__(self, sets: Iterable[Iterable[int]], num_classes: int) -> None:
        self.num_classes = num_classes
        self.offsets, self.values = array("q", [0]), array("i")
        for one in sets:
            self.values.extend(sorted(set(one)))
            self.offsets.append(len(self.values))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> LabelSets: ...
    def __getitem__(self, index: int | slice) -> tuple[int, ...] | LabelSets:
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        place = range(len(self))[index]
        return tuple(self.values[self.offsets[place] : self.offsets[place + 1]])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LabelSets):
            return NotImplemented
        return (self.num_classes, self.offsets, self.values) == (other.num_classes, other.offsets, other.values)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        few = ", ".join(map(str, self[:4])) + (", ..." if len(self) > 4 else "")
        return f"LabelSets([{few}], num_classes={self.num_classes})"

    def take(self, indices: Iterable[int]) -> LabelSets:
        """The label sets at `indices`, in that order."""
        return LabelSets((self[index] for index in indices), self.num_classes)

    def mapped(self, mapping: Sequence[int | None], num_classes: int) -> LabelSets:
        """Other class indices.

        Args:
            mapping: New index by old one; None removes the label. Several may have the same new index.
            num_classes: Number of new classes.
        """
        kept = ([new for old in one if (new := mapping[old]) is not None] for one in self)
        return LabelSets(kept, num_classes)

    def to_arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`offsets` and `values` as int64."""
        import numpy as np

        return np.array(self.offsets, dtype=np.int64), np.array(self.values, dtype=np.int64)


Labels = Sequence[int] | LabelSets
"""The labels of a split, one item per image."""


def label_set(label: Label) -> tuple[int, ...]:
    """The class indices of one image."""
    return (label,) if isinstance(label, int) else label


def count_classes(labels: Labels) -> Counter[int]:
    """Number of images of each class, without classes that have none."""
    return Counter(labels.values if isinstance(labels, LabelSets) else labels)


def label_text(label: Label, classes: Sequence[str]) -> str:
    """The class names of one image, joined by `SEPARATOR`; empty if it has none."""
    return SEPARATOR.join(classes[index] for index in label_set(label))
