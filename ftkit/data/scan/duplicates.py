"""The same picture twice, byte for byte, or saved or scaled once more: in two splits, or under two classes of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import TYPE_CHECKING

from ftkit.data.images import extremes, with_channels
from ftkit.data.scan.scan_cache import ScanResult
from ftkit.parts.dataset import SplitName, Splits

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 9
"""Width and height of the thumbnails that are compared."""

STEP = 2
"""Grey levels, of 256, by which neighbours in a thumbnail differ that tell one picture from another."""

STEPS_NEEDED = 96
"""So many of the 128 must. Digits on black have fewer, and are alike in thumbnails though they aren't the same."""

MOST_BITS = 7
"""Bits of 128 in which copies differ at most: 99 of 100 photographs stay within when saved as JPEG of quality 50
or scaled to a quarter. Of 24.5 million pairs of different pictures of 32 pixels, 3 came as near."""

BANDS = 8
"""One more than the bits that may differ, so that copies agree in one of them."""

Sample = tuple[str, int]
"""A file and its label."""

Pair = tuple[Sample, Sample, int | None]
"""A copy, what it is a copy of, and in how many bits they differ; None where they are the same byte for byte."""

COMPARED = 64
"""Of pictures that agree in a band each is compared with so many next ones, so that time grows with the images."""


@dataclass(frozen=True)
class Duplicate:
    """A picture of one split that another has too, or that the same one has under another class.

    Attributes:
        hash_distance: In how many of 128 they differ as thumbnails; None where the files are the same byte for byte.
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
        """Whether both are in one split, under two classes."""
        return self.split == self.other_split


def perceptual_hash(image: Image) -> bytes | None:
    """128 bits that stay much the same in copies: which neighbours in a thumbnail are the brighter ones.

    None for a picture so plain that this tells nothing.
    """
    import numpy as np
    from PIL.Image import Resampling

    # Deep images by their own range, so that the dark ones tell as much as others, and the data's range plays no part.
    own = extremes(image)
    value_range = None if own is None else (own.low, max(own.high, own.low + 1))
    grey = np.asarray(with_channels(image, 1, value_range).resize((SIDE, SIDE), Resampling.BOX), dtype=np.int16)
    steps = np.concatenate([np.diff(grey[:-1], axis=1).ravel(), np.diff(grey[:, :-1], axis=0).ravel()])
    if (abs(steps) >= STEP).sum() < STEPS_NEEDED:
        return None
    return np.packbits(steps > 0).tobytes()


def find_duplicates(
    splits: Splits, files: Mapping[SplitName, Sequence[str | None]], looks: Mapping[str, ScanResult]
) -> tuple[Duplicate, ...]:
    """For each image of a later split, what is likest to it in each earlier one, if it is a copy.

    After these, for each image what is a copy of it in the same split and before it, but of another class.

    Args:
        files: Of the splits' samples; None for one that comes out of something else.
    """
    samples = {
        name: [(file, label) for file, label in zip(files[name], split.labels, strict=True) if file is not None]
        for name, split in splits.present()
    }

    def listed(later: SplitName, earlier: SplitName, pairs: Iterable[Pair]) -> Iterator[Duplicate]:
        for (file, label), (other, other_label), bits in pairs:
            yield Duplicate(later, file, splits.classes[label], earlier, other, splits.classes[other_label], bits)

    return tuple(
        chain(
            *(listed(b, a, _pairs(samples[b], samples[a], looks)) for a, b in combinations(samples, 2)),
            *(listed(name, name, _contradictions(samples[name], looks)) for name in samples),
        )
    )


def summary(found: Sequence[Duplicate], first: int) -> Iterator[str]:
    """A line for each of the two kinds that there are: how many, and the first ones."""
    yield from _across([one for one in found if not one.contradicts], first)
    yield from _within([one for one in found if one.contradicts], first)


def _within(found: Sequence[Duplicate], first: int) -> Iterator[str]:
    if found:
        same = sum(one.hash_distance is None for one in found)
        pairs = "; ".join(f"{one.file} ({one.label}) and {one.other_file} ({one.other_label})" for one in found[:first])
        more = f"; and {len(found) - first:,} more" if len(found) > first else ""
        yield (
            f"pictures that one split has under two classes, of which one is wrong: {same:,} the same file, "
            f"{len(found) - same:,} nearly the same: {pairs}{more}"
        )


def _across(found: Sequence[Duplicate], first: int) -> Iterator[str]:
    if not found:
        return
    same = sum(one.hash_distance is None for one in found)
    other = sum(one.label != one.other_label for one in found)
    pairs = "; ".join(f"{one.file} and {one.other_file}" for one in found[:first])
    more = f"; and {len(found) - first} more" if len(found) > first else ""
    labels = f", {other} with another class" if other else ""
    yield (
        f"pictures that are in two splits, which flatters the score: {same} the same file, {len(found) - same} nearly "
        f"the same{labels}: {pairs}{more}"
    )


def _pairs(later: Sequence[Sample], earlier: Sequence[Sample], looks: Mapping[str, ScanResult]) -> Iterator[Pair]:
    """In the order of `later`, which is what is indexed, being the smaller one as a rule."""
    exact: dict[bytes | None, Sample] = {}
    for sample in earlier:
        exact.setdefault(looks[sample[0]].content, sample)
    near = _nearest(later, earlier, looks)
    for place, sample in enumerate(later):
        content = looks[sample[0]].content
        if content is not None and content in exact:
            yield sample, exact[content], None
        elif place in near:
            bits, other = near[place]
            yield sample, earlier[other], bits


def _nearest(
    later: Sequence[Sample], earlier: Sequence[Sample], looks: Mapping[str, ScanResult]
) -> dict[int, tuple[int, int]]:
    """By place in `later`: the bits that differ, and the place in `earlier` that is likest."""
    pictures = [looks[file].picture for file, _ in later]
    index: dict[tuple[int, bytes], list[int]] = {}
    for place, picture in enumerate(pictures):
        for band in _bands(picture):
            index.setdefault(band, []).append(place)
    values = [int.from_bytes(picture or b"") for picture in pictures]
    found: dict[int, tuple[int, int]] = {}
    for other, (file, _) in enumerate(earlier):
        picture = looks[file].picture
        value = int.from_bytes(picture or b"")
        for place in {place for band in _bands(picture) for place in index.get(band, ())}:
            bits = (values[place] ^ value).bit_count()
            if bits <= MOST_BITS and (bits, other) < found.get(place, (MOST_BITS + 1, 0)):
                found[place] = bits, other
    return found


def _bands(picture: bytes | None) -> Iterator[tuple[int, bytes]]:
    if picture is not None:
        width = len(picture) // BANDS
        for band in range(BANDS):
            yield band, picture[band * width : (band + 1) * width]


def _contradictions(samples: Sequence[Sample], looks: Mapping[str, ScanResult]) -> Iterator[Pair]:
    """Each sample with the first one before it that is a copy of it and of another class."""
    first: dict[bytes, Sample] = {}
    near = _near_of_other_labels(samples, looks)
    for place, sample in enumerate(samples):
        content = looks[sample[0]].content
        other = first.setdefault(content, sample) if content is not None else sample
        if other[1] != sample[1]:
            yield sample, other, None
        elif place in near:
            bits, before = near[place]
            if looks[samples[before][0]].content != content:
                yield sample, samples[before], bits


def _near_of_other_labels(samples: Sequence[Sample], looks: Mapping[str, ScanResult]) -> dict[int, tuple[int, int]]:
    """By place: the bits that differ, and the place before it of another label that is likest."""
    import numpy as np

    places = np.array([p for p, (file, _) in enumerate(samples) if looks[file].picture is not None], dtype=np.int64)
    if len(places) < 2:
        return {}
    joined = b"".join(looks[samples[place][0]].picture or b"" for place in places)
    halves = np.frombuffer(joined, dtype=np.uint64).reshape(len(places), -1)
    labels = np.array([samples[place][1] for place in places])
    found: dict[int, tuple[int, int]] = {}
    for band in halves.view(np.uint16).T:
        order = np.lexsort((*halves.T, band))
        ends, kinds, pictures = band[order], labels[order], halves[order]
        rows = np.arange(len(order))
        for step in range(1, COMPARED):
            # Only pictures that agree in the band are left to compare, which are fewer with each step.
            rows = rows[: np.searchsorted(rows, len(order) - step)]
            rows = rows[ends[rows] == ends[rows + step]]
            if not len(rows):
                break
            bits = np.bitwise_count(pictures[rows] ^ pictures[rows + step]).sum(axis=1)
            near = (bits <= MOST_BITS) & (kinds[rows] != kinds[rows + step])
            pairs = zip(order[rows[near]], order[rows[near] + step], bits[near], strict=True)
            for one, two, count in pairs:
                before, later = sorted((int(places[one]), int(places[two])))
                found[later] = min(found.get(later, (MOST_BITS + 1, 0)), (int(count), before))
    return found
