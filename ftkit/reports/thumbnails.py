"""Small pictures of a report as data URIs, up to a total size."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftkit.data.images.colors import with_channels
from ftkit.data.images.reading import UnreadableImage
from ftkit.parts.dataset import Split

if TYPE_CHECKING:
    from PIL.Image import Image

    from ftkit.data.images.depth import Range

SIDE = 160
"""The longer side of a thumbnail, in pixels; smaller images keep their size."""
QUALITY = 72
"""Of JPEG."""
LOSSLESS = 48
"""The longer side, in pixels, up to which PNG is smaller than JPEG or looks better."""
TOGETHER = 16
"""Images that are made before the bytes are counted."""
BUDGET = 3_500_000
"""Bytes of all thumbnails of a report, as base64."""


@dataclass(frozen=True)
class Thumbnail:
    """A picture.

    Attributes:
        uri: A `data:` URI of a JPEG or PNG image.
        width, height: In pixels.
    """

    uri: str
    width: int
    height: int


class Thumbnails:
    """Makes thumbnails until they have a total size.

    Attributes:
        left: Bytes that are left.
        unreadable: Names of the images that couldn't be read, with the reasons.
    """

    def __init__(self, value_range: Range | None = None, budget: int = BUDGET) -> None:
        self.left = budget
        self.unreadable: list[str] = []
        self._value_range = value_range
        self._made: dict[tuple[int, int], Thumbnail | None] = {}

    def of(self, split: Split, index: int) -> Thumbnail | None:
        """The thumbnail of an image; None where no bytes are left, or the image can't be read."""
        key = id(split), index
        if key not in self._made:
            if self.left <= 0:
                return None
            self._made[key] = self._counted(self._make(split, index))
        return self._made[key]

    def add(self, image: Image) -> Thumbnail:
        """The thumbnail of an RGB image that isn't one of a split; its bytes are counted."""
        made = encode(image)
        self.left -= len(made.uri)
        return made

    def prepare(self, split: Split, indices: Sequence[int]) -> None:
        """Make thumbnails of images, in this order, on all cores, as far as the bytes suffice."""
        wanted = [index for index in indices if (id(split), index) not in self._made]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(wanted), TOGETHER):
                part = wanted[start : start + TOGETHER]
                if self.left <= 0:
                    return
                for index, made in zip(part, pool.map(lambda index: self._make(split, index), part), strict=True):
                    self._made[id(split), index] = self._counted(made)

    def _make(self, split: Split, index: int) -> Thumbnail | str:
        """A thumbnail, or why the image can't be read."""
        try:
            return encode(with_channels(split.open(index), 3, self._value_range))
        except UnreadableImage as error:
            return error.message

    def _counted(self, made: Thumbnail | str) -> Thumbnail | None:
        if isinstance(made, str):
            self.unreadable.append(made)
            return None
        self.left -= len(made.uri)
        return made


def encode(image: Image) -> Thumbnail:
    """An RGB image, made smaller where it is larger than a thumbnail."""
    small = image.copy() if max(image.size) <= SIDE else _reduced(image)
    content, lossless = io.BytesIO(), max(small.size) <= LOSSLESS
    if lossless:
        small.save(content, "PNG", optimize=True)
    else:
        small.save(content, "JPEG", quality=QUALITY, optimize=True)
    kind = "png" if lossless else "jpeg"
    data = base64.b64encode(content.getvalue()).decode()
    return Thumbnail(f"data:image/{kind};base64,{data}", *small.size)


def _reduced(image: Image) -> Image:
    small = image.copy()
    small.info.clear()
    small.thumbnail((SIDE, SIDE))
    return small
