"""Pairs of perceptual hashes that are close, among a million of them, by sorting their parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Words = NDArray[np.uint64]
    Flags = NDArray[np.bool_]
    Positions = NDArray[np.int64]
    Counts = NDArray[np.uint8]

MAX_DISTANCE = 7
"""Maximum Hamming distance of the hashes of duplicates, of 128 bits: 99 of 100 photographs stay within it when saved as
JPEG of quality 50 or scaled to a quarter. Of 24.5 million pairs of different 32-pixel images, 3 were that close."""

BANDS = 8
"""One more than the bits that may differ, so that the hashes of duplicates are equal in at least one band."""

PAIRS = 1 << 20
"""Pairs of hashes that are compared at once, about 50 MB."""

COMPARED = 64
"""Among images with an equal band, each is compared with this many that follow it, so that time is linear."""


Closest = dict[int, tuple[int, int]]
"""By position of an image: the distance to the closest other image, and the position of that."""


def nearest(later: Words, has_later: Flags, earlier: Words, has_earlier: Flags) -> Closest:
    """The closest image of `earlier` for each of `later`.

    Args:
        later, earlier: Hashes, `(n, 2)` and `(m, 2)`.
        has_later, has_earlier: Which images have one, `(n,)` and `(m,)`.
    """
    import numpy as np

    found: Closest = {}
    mine, theirs = has_later.nonzero()[0], has_earlier.nonzero()[0]
    hashes, others = later[mine], earlier[theirs]
    for band, other_band in zip(_bands(hashes), _bands(others), strict=True):
        order = other_band.argsort(kind="stable")
        low, high = (np.searchsorted(other_band[order], band, side) for side in ("left", "right"))
        for some in _parts(high - low):
            counts = (high - low)[some]
            rows = np.repeat(some, counts)
            ranks = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
            matches = order[np.repeat(low[some], counts) + ranks]
            near, distance = _close(hashes, rows, others, matches)
            _keep_closest(found, mine[rows[near]], theirs[matches[near]], distance)
    return found


def _close(hashes: Words, rows: Positions, others: Words, matches: Positions) -> tuple[Positions, Counts]:
    """Which pairs of hashes are close, and their distances; most pairs differ enough in their first half."""
    import numpy as np

    first = np.bitwise_count(hashes[rows, 0] ^ others[matches, 0])
    near = (first <= MAX_DISTANCE).nonzero()[0]
    distance = first[near] + np.bitwise_count(hashes[rows[near], 1] ^ others[matches[near], 1])
    return near[distance <= MAX_DISTANCE], distance[distance <= MAX_DISTANCE]


def _keep_closest(found: dict[int, tuple[int, int]], places: Positions, others: Positions, distance: Counts) -> None:
    """Keep in `found` the closest image of each place, and of several the first."""
    import numpy as np

    order = np.lexsort((others, distance, places))
    for at in order[np.unique(places[order], return_index=True)[1]]:
        place, match = int(places[at]), (int(distance[at]), int(others[at]))
        found[place] = min(found.get(place, match), match)


def _bands(hashes: Words) -> NDArray[np.uint16]:
    """The bands of hashes, `(BANDS, n)`."""
    import numpy as np

    return np.ascontiguousarray(hashes).view(np.uint16).reshape(-1, BANDS).T


def _parts(counts: Positions) -> Iterator[Positions]:
    """Consecutive positions with counts of about `PAIRS` in total, or a single position with more."""
    import numpy as np

    ends = counts.cumsum()
    start = 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + PAIRS, "right")))
        yield np.arange(start, stop)
        start = stop


def nearest_of_other_kinds(hashes: Words, known: Flags, kinds: Positions) -> Closest:
    """The closest earlier image of another kind for each image.

    Args:
        hashes: `(n, 2)`.
        known: Which images have one, `(n,)`.
        kinds: A number for the label of each image, `(n,)`.
    """
    import numpy as np

    found: Closest = {}
    for one, two, distance in close_pairs(hashes, known):
        other = (kinds[one] != kinds[two]).nonzero()[0]
        one, two = one[other], two[other]
        _keep_closest(found, np.maximum(one, two), np.minimum(one, two), distance[other])
    return found


def close_pairs(hashes: Words, known: Flags) -> Iterator[tuple[Positions, Positions, Counts]]:
    """Pairs of close images, as two arrays of positions and one of distances; a pair may occur several times.

    Of many images with an equal band, each is compared with those that follow it in the order of their hashes.

    Args:
        hashes, known: As for `nearest_of_other_kinds`.
    """
    import numpy as np

    places = known.nonzero()[0]
    halves = hashes[places]
    by_hash = np.lexsort(tuple(halves.T))
    for band in _bands(halves):
        order = by_hash[band[by_hash].argsort(kind="stable")]
        ends, ordered = band[order], halves[order]
        rows = np.arange(len(order))
        for step in range(1, COMPARED):
            # Only images with an equal band remain, fewer with each step.
            rows = rows[: np.searchsorted(rows, len(order) - step)]
            rows = rows[ends[rows] == ends[rows + step]]
            if not len(rows):
                break
            near, distance = _close(ordered, rows, ordered, rows + step)
            yield places[order[rows[near]]], places[order[rows[near] + step]], distance
