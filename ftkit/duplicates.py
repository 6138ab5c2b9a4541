"""The same picture in two splits, which flatters the score: byte for byte, or saved or scaled once more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from ftkit.images import with_channels
from ftkit.memory import Look
from ftkit.spec.dataset import SplitName, Splits

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


@dataclass(frozen=True)
class Duplicate:
    """A picture of one split that another has too.

    Attributes:
        bits: In how many of 128 they differ as thumbnails; None where the files are the same byte for byte.
    """

    split: SplitName
    file: str
    label: str
    other_split: SplitName
    other_file: str
    other_label: str
    bits: int | None


def picture_hash(image: Image) -> bytes | None:
    """128 bits that stay much the same in copies: which neighbours in a thumbnail are the brighter ones.

    None for a picture so plain that this tells nothing.
    """
    import numpy as np
    from PIL.Image import Resampling

    grey = np.asarray(with_channels(image, 1).resize((SIDE, SIDE), Resampling.BOX), dtype=np.int16)
    steps = np.concatenate([np.diff(grey[:-1], axis=1).ravel(), np.diff(grey[:, :-1], axis=0).ravel()])
    if (abs(steps) >= STEP).sum() < STEPS_NEEDED:
        return None
    return np.packbits(steps > 0).tobytes()


def find_duplicates(
    splits: Splits, files: Mapping[SplitName, Sequence[str | None]], looks: Mapping[str, Look]
) -> tuple[Duplicate, ...]:
    """For each image of a later split, what is likest to it in each earlier one, if it is a copy.

    Args:
        files: Of the splits' samples; None for one that comes out of something else.
    """
    samples = {
        name: [(file, label) for file, label in zip(files[name], split.labels, strict=True) if file is not None]
        for name, split in splits.present()
    }
    return tuple(
        Duplicate(
            split=later,
            file=file,
            label=splits.classes[label],
            other_split=earlier,
            other_file=other,
            other_label=splits.classes[other_label],
            bits=bits,
        )
        for earlier, later in combinations(samples, 2)
        for (file, label), (other, other_label), bits in _pairs(samples[later], samples[earlier], looks)
    )


def summary(found: Sequence[Duplicate], first: int) -> Iterator[str]:
    """A line that says how many there are and names the first ones; none where there are none."""
    if not found:
        return
    same = sum(one.bits is None for one in found)
    other = sum(one.label != one.other_label for one in found)
    pairs = "; ".join(f"{one.file} and {one.other_file}" for one in found[:first])
    more = f"; and {len(found) - first} more" if len(found) > first else ""
    labels = f", {other} with another class" if other else ""
    yield (
        f"pictures that are in two splits, which flatters the score: {same} the same file, {len(found) - same} nearly "
        f"the same{labels}: {pairs}{more}"
    )


def _pairs(
    later: Sequence[Sample], earlier: Sequence[Sample], looks: Mapping[str, Look]
) -> Iterator[tuple[Sample, Sample, int | None]]:
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
    later: Sequence[Sample], earlier: Sequence[Sample], looks: Mapping[str, Look]
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
