"""Duplicate images, identical or re-encoded or resized: in two splits, or with two labels in one split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import TYPE_CHECKING

from ftkit.data.images import extremes, with_channels
from ftkit.data.scan.scan_cache import ScanResult
from ftkit.parts.dataset import SplitName, Splits
from ftkit.parts.label_sets import Label, label_text

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 9
"""Width and height of the thumbnails that are hashed."""

STEP = 2
"""Difference of grey levels, of 256, between neighbours in a thumbnail that counts as a feature."""

STEPS_NEEDED = 96
"""Features that an image needs of 128. Digits on black have fewer: their thumbnails are alike though they differ."""

MAX_DISTANCE = 7
"""Maximum Hamming distance of the hashes of duplicates, of 128 bits: 99 of 100 photographs stay within it when saved as
JPEG of quality 50 or scaled to a quarter. Of 24.5 million pairs of different 32-pixel images, 3 were that close."""

BANDS = 8
"""One more than the bits that may differ, so that the hashes of duplicates are equal in at least one band."""

Sample = tuple[str, Label]
"""A file and its label."""

Pair = tuple[Sample, Sample, int | None]
"""A copy, its original, and the distance of their hashes; None if the files are identical."""

COMPARED = 64
"""Among images with an equal band, each is compared with this many that follow it, so that time is linear."""


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


def find_duplicates(
    splits: Splits, files: Mapping[SplitName, Sequence[str | None]], results: Mapping[str, ScanResult]
) -> tuple[Duplicate, ...]:
    """Find duplicates between splits, then duplicates with different labels within each split.

    Each image is paired with the closest one of each earlier split, or with the closest earlier one of its own split.

    Args:
        files: File of each sample; None for a sample that is not a file.
        results: The results by file.
    """
    samples: dict[SplitName, list[Sample]] = {}
    for name, split in splits.present():
        labels: Sequence[Label] = split.labels
        samples[name] = [(file, label) for file, label in zip(files[name], labels, strict=True) if file is not None]

    def listed(later: SplitName, earlier: SplitName, pairs: Iterable[Pair]) -> Iterator[Duplicate]:
        for (file, label), (other, other_label), distance in pairs:
            label_names = (label_text(each, splits.classes) for each in (label, other_label))
            yield Duplicate(later, file, next(label_names), earlier, other, next(label_names), distance)

    return tuple(
        chain(
            *(listed(b, a, _pairs(samples[b], samples[a], results)) for a, b in combinations(samples, 2)),
            *(listed(name, name, _contradictions(samples[name], results)) for name in samples),
        )
    )


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


def _pairs(later: Sequence[Sample], earlier: Sequence[Sample], results: Mapping[str, ScanResult]) -> Iterator[Pair]:
    """Pairs in the order of `later`, which is usually the smaller split."""
    exact: dict[bytes | None, Sample] = {}
    for sample in earlier:
        exact.setdefault(results[sample[0]].content, sample)
    near = _nearest(later, earlier, results)
    for place, sample in enumerate(later):
        content = results[sample[0]].content
        if content is not None and content in exact:
            yield sample, exact[content], None
        elif place in near:
            distance, other = near[place]
            yield sample, earlier[other], distance


def _nearest(
    later: Sequence[Sample], earlier: Sequence[Sample], results: Mapping[str, ScanResult]
) -> dict[int, tuple[int, int]]:
    """By position in `later`: the distance to the closest image of `earlier`, and its position."""
    hashes = [results[file].perceptual_hash for file, _ in later]
    index: dict[tuple[int, bytes], list[int]] = {}
    for place, each in enumerate(hashes):
        for band in _bands(each):
            index.setdefault(band, []).append(place)
    values = [int.from_bytes(each or b"") for each in hashes]
    found: dict[int, tuple[int, int]] = {}
    for other, (file, _) in enumerate(earlier):
        hashed = results[file].perceptual_hash
        value = int.from_bytes(hashed or b"")
        for place in {place for band in _bands(hashed) for place in index.get(band, ())}:
            distance = (values[place] ^ value).bit_count()
            if distance <= MAX_DISTANCE and (distance, other) < found.get(place, (MAX_DISTANCE + 1, 0)):
                found[place] = distance, other
    return found


def _bands(hashed: bytes | None) -> Iterator[tuple[int, bytes]]:
    if hashed is not None:
        width = len(hashed) // BANDS
        for band in range(BANDS):
            yield band, hashed[band * width : (band + 1) * width]


def _contradictions(samples: Sequence[Sample], results: Mapping[str, ScanResult]) -> Iterator[Pair]:
    """Each sample with the closest earlier duplicate that has another label."""
    first: dict[bytes, Sample] = {}
    near = _near_of_other_labels(samples, results)
    for place, sample in enumerate(samples):
        content = results[sample[0]].content
        other = first.setdefault(content, sample) if content is not None else sample
        if other[1] != sample[1]:
            yield sample, other, None
        elif place in near:
            distance, before = near[place]
            if results[samples[before][0]].content != content:
                yield sample, samples[before], distance


def _near_of_other_labels(samples: Sequence[Sample], results: Mapping[str, ScanResult]) -> dict[int, tuple[int, int]]:
    """By position: the distance to the closest earlier image with another label, and its position."""
    import numpy as np

    places = np.array(
        [p for p, (file, _) in enumerate(samples) if results[file].perceptual_hash is not None], dtype=np.int64
    )
    if len(places) < 2:
        return {}
    joined = b"".join(results[samples[place][0]].perceptual_hash or b"" for place in places)
    halves = np.frombuffer(joined, dtype=np.uint64).reshape(len(places), -1)
    numbers: dict[Label, int] = {}
    labels = np.array([numbers.setdefault(samples[place][1], len(numbers)) for place in places])
    found: dict[int, tuple[int, int]] = {}
    for band in halves.view(np.uint16).T:
        order = np.lexsort((*halves.T, band))
        ends, kinds, hashes = band[order], labels[order], halves[order]
        rows = np.arange(len(order))
        for step in range(1, COMPARED):
            # Only images with an equal band remain, fewer with each step.
            rows = rows[: np.searchsorted(rows, len(order) - step)]
            rows = rows[ends[rows] == ends[rows + step]]
            if not len(rows):
                break
            distance = np.bitwise_count(hashes[rows] ^ hashes[rows + step]).sum(axis=1)
            near = (distance <= MAX_DISTANCE) & (kinds[rows] != kinds[rows + step])
            pairs = zip(order[rows[near]], order[rows[near] + step], distance[near], strict=True)
            for one, two, count in pairs:
                before, later = sorted((int(places[one]), int(places[two])))
                found[later] = min(found.get(later, (MAX_DISTANCE + 1, 0)), (int(count), before))
    return found
