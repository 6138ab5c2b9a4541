"""Duplicate images, identical or re-encoded or resized: in two splits, or with two labels in one split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import TYPE_CHECKING

from ftkit.data.images import extremes, with_channels
from ftkit.data.scan.close_hashes import nearest, nearest_of_other_kinds
from ftkit.data.scan.scan_rows import ScanRows
from ftkit.data.scan.scan_table import ScanTable
from ftkit.parts.dataset import SplitName, Splits
from ftkit.parts.label_sets import Label, label_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Words = NDArray[np.uint64]
    Flags = NDArray[np.bool_]
    Positions = NDArray[np.int64]
    Counts = NDArray[np.uint8]

SIDE = 9
"""Width and height of the thumbnails that are hashed."""

STEP = 2
"""Difference of grey levels, of 256, between neighbours in a thumbnail that counts as a feature."""

STEPS_NEEDED = 96
"""Features that an image needs of 128. Digits on black have fewer: their thumbnails are alike though they differ."""

Pair = tuple[int, int, int | None]
"""Positions of a copy and its original, and the distance of their hashes; None if the files are identical."""


@dataclass(frozen=True)
class Duplicate:
    """An image that is also in another split, or in the same split with another label.

    Attributes:
        hash_distance: Hamming distance of the perceptual hashes, of 128 bits; None if the files are identical.
    """

    split: SplitName
    file: str
    label: str
    other_split: SplitName
    other_file: str
    other_label: str
    hash_distance: int | None

    @property
    def contradicts(self) -> bool:
        """Whether both images are in the same split, with different labels."""
        return self.split == self.other_split


def perceptual_hash(image: Image) -> bytes | None:
    """A difference hash of 128 bits: the signs of the differences between neighbours in a thumbnail.

    None for an image with too few features.
    """
    import numpy as np
    from PIL.Image import Resampling

    # Images of more than 8 bits by their own range, so that dark ones have features too.
    own = extremes(image)
    value_range = None if own is None else (own.low, max(own.high, own.low + 1))
    grey = np.asarray(with_channels(image, 1, value_range).resize((SIDE, SIDE), Resampling.BOX), dtype=np.int16)
    steps = np.concatenate([np.diff(grey[:-1], axis=1).ravel(), np.diff(grey[:, :-1], axis=0).ravel()])
    if (abs(steps) >= STEP).sum() < STEPS_NEEDED:
        return None
    return np.packbits(steps > 0).tobytes()


def find_duplicates(splits: Splits, rows: ScanRows, table: ScanTable) -> tuple[Duplicate, ...]:
    """Find duplicates between splits, then duplicates with different labels within each split.

    Each image is paired with the closest one of each earlier split, or with the closest earlier one of its own split.

    Args:
        rows: Rows of the splits in `table`.
    """
    present = dict(splits.present()) if rows.scanned else {}

    def listed(later: SplitName, earlier: SplitName, pairs: Iterable[Pair]) -> Iterator[Duplicate]:
        (_, files), (_, other_files) = rows.of_split(later), rows.of_split(earlier)
        labels: Sequence[Label] = present[later].labels
        other_labels: Sequence[Label] = present[earlier].labels
        for place, other, distance in pairs:
            file, other_file = files[place], other_files[other]
            assert file is not None, "only files are scanned"
            assert other_file is not None, "only files are scanned"
            label, other_label = (label_text(one, splits.classes) for one in (labels[place], other_labels[other]))
            yield Duplicate(later, file, label, earlier, other_file, other_label, distance)

    def scanned(name: SplitName) -> _Scanned:
        return _Scanned(table, rows.of_split(name)[0])

    return tuple(
        chain(
            *(listed(b, a, _across_pairs(scanned(b), scanned(a))) for a, b in combinations(present, 2)),
            *(listed(name, name, _contradictions(scanned(name), split.labels)) for name, split in present.items()),
        )
    )


class _Scanned:
    """The results of a split.

    Attributes:
        contents, hashes: Digests of the files and perceptual hashes, `(n, 2)`.
        has_content, has_hash: Which images have one, `(n,)`.
    """

    def __init__(self, table: ScanTable, rows: slice) -> None:
        self.contents, self.has_content = table.contents(rows)
        self.hashes, self.has_hash = table.hashes(rows)


def summary(found: Sequence[Duplicate], first: int) -> Iterator[str]:
    """A line for duplicates between splits and one for those with two labels: the counts and the first pairs."""
    yield from _across([one for one in found if not one.contradicts], first)
    yield from _within([one for one in found if one.contradicts], first)


def _within(found: Sequence[Duplicate], first: int) -> Iterator[str]:
    if found:
        same = sum(one.hash_distance is None for one in found)
        pairs = "; ".join(f"{one.file} ({one.label}) and {one.other_file} ({one.other_label})" for one in found[:first])
        more = f"; and {len(found) - first:,} more" if len(found) > first else ""
        yield (
            f"duplicate images with different labels in one split: {same:,} identical, {len(found) - same:,} nearly "
            f"identical: {pairs}{more}"
        )


def _across(found: Sequence[Duplicate], first: int) -> Iterator[str]:
    if not found:
        return
    same = sum(one.hash_distance is None for one in found)
    other = sum(one.label != one.other_label for one in found)
    pairs = "; ".join(f"{one.file} and {one.other_file}" for one in found[:first])
    more = f"; and {len(found) - first} more" if len(found) > first else ""
    labels = f", {other} with different labels" if other else ""
    yield (
        f"duplicate images in two splits, which makes metrics too optimistic: {same} identical, {len(found) - same} "
        f"nearly identical{labels}: {pairs}{more}"
    )


def _across_pairs(later: _Scanned, earlier: _Scanned) -> Iterator[Pair]:
    """Pairs in the order of `later`, which is usually the smaller split."""
    import numpy as np

    contents = np.concatenate([earlier.contents, later.contents])
    known = np.concatenate([earlier.has_content, later.has_content])
    first, start = first_equal(contents, known), len(earlier.contents)
    exact = {int(place): int(first[start + place]) for place in (first[start:] < start).nonzero()[0]}
    near = nearest(later.hashes, later.has_hash, earlier.hashes, earlier.has_hash)
    for place in sorted(exact.keys() | near.keys()):
        if place in exact:
            yield place, exact[place], None
        else:
            distance, other = near[place]
            yield place, other, distance


def first_equal(values: Words, known: Flags) -> Positions:
    """The position of the first row with the same values, for each row; its own for unknown rows.

    Args:
        values: `(n, 2)`.
        known: Which rows have values, `(n,)`.
    """
    import numpy as np

    found = np.arange(len(values))
    # A stable sort, so that the first of equal rows is that of the lowest position.
    order = known.nonzero()[0]
    order = order[np.lexsort((values[order, 1], values[order, 0]))]
    if len(order):
        starts = np.concatenate([[True], (values[order[1:]] != values[order[:-1]]).any(axis=1)])
        found[order] = order[starts.nonzero()[0][starts.cumsum() - 1]]
    return found


def _contradictions(split: _Scanned, labels: Sequence[Label]) -> Iterator[Pair]:
    """Each sample with the closest earlier duplicate that has another label."""
    import numpy as np

    numbers: dict[Label, int] = {}
    kinds = np.fromiter((numbers.setdefault(label, len(numbers)) for label in labels), np.int64, len(labels))
    first = first_equal(split.contents, split.has_content)
    near = nearest_of_other_kinds(split.hashes, split.has_hash, kinds)
    exact = {int(place): int(first[place]) for place in (kinds[first] != kinds).nonzero()[0]}
    for place in sorted(exact.keys() | near.keys()):
        if place in exact:
            yield place, exact[place], None
        else:
            distance, before = near[place]
            if first[before] != first[place]:
                yield place, before, distance
