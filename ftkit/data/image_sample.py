"""A sample of a split's images: their sizes, and whether all are grey. Most files aren't decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from ftkit.data.images import is_grey, open_header, sample_file, upright_size
from ftkit.parts.dataset import Split

MOST = 100
"""Most images of a sample."""

DRAFT = (64, 64)
"""Size in pixels to which JPEG files may be reduced while they are decoded, for their colours."""


@dataclass(frozen=True)
class ImageSample:
    """What a sample of images has in common.

    Attributes:
        places: Positions in the split of the images that could be read.
        sizes: Width and height of each, in pixels.
        grey: Whether all pixels of all of them are grey; false without images.
    """

    places: Sequence[int]
    sizes: Sequence[tuple[int, int]]
    grey: bool

    @property
    def width(self) -> int:
        """Median, in pixels; 0 without images, as the others."""
        return median_low([width for width, _ in self.sizes] or [0])

    @property
    def height(self) -> int:
        """Median, in pixels."""
        return median_low([height for _, height in self.sizes] or [0])

    @property
    def side(self) -> int:
        """Median of the shorter sides, in pixels."""
        return median_low([min(size) for size in self.sizes] or [0])


def sample_images(split: Split) -> ImageSample:
    """A sample of at most 100 images, evenly spaced over the split and so over its classes.

    Images that can't be read are left out; the scan and the training report them. Of remote data only the first block
    is read.
    """
    places, sizes, grey = list[int](), list[tuple[int, int]](), True
    for place in _places(split):
        try:
            size, coloured = _look(split, place, grey)
        except Exception:  # decoders raise any exception for damaged files
            continue
        places.append(place)
        sizes.append(size)
        grey = grey and not coloured
    return ImageSample(places, sizes, grey and bool(places))


def _places(split: Split) -> Sequence[int]:
    blocks = split.blocks
    first = None if blocks is None or not len(blocks) else blocks[0]
    there = range(len(split)) if blocks is None else [i for i, block in enumerate(blocks) if block == first]
    return there[:: max(1, -(-len(there) // MOST))]


def _look(split: Split, place: int, colours: bool) -> tuple[tuple[int, int], bool]:
    """The upright size of an image, and whether it is coloured.

    Args:
        colours: Whether colours are of interest; otherwise a file isn't decoded.
    """
    file = sample_file(split, place)
    if file is None:
        image = split.open(place)
        return image.size, colours and not is_grey(image)
    with open_header(file) as image:
        size = upright_size(image)
        if not colours:
            return size, False
        image.draft("RGB", DRAFT)
        return size, not is_grey(image)
