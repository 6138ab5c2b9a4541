"""Digests of the images of a split, which identify cached results computed from them."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ftkit.data.images import DEPTH, SampleFiles, UnreadableImage, load_upright, sample_file
from ftkit.data.scan.scan_cache import open_scan_cache
from ftkit.errors import FtkitError
from ftkit.files.file_identity import DIGEST_BYTES, content_digest, file_stamp
from ftkit.parts.dataset import Split
from ftkit.plugin_errors import is_unreadable_image

if TYPE_CHECKING:
    from PIL.Image import Image

UNREADABLE = bytes(DIGEST_BYTES)
"""Digest of an image that can't be read; no result of it is cached."""


@dataclass(frozen=True)
class ImageDigests:
    """Digests of the images of a split at one point in time.

    Attributes:
        digest: Hex digits that change when the content of an image or the order changes, but not when files are moved
            or renamed.
    """

    digest: str
    _split: Split = field(repr=False)
    _contents: bytearray = field(repr=False)
    _marks: array[int] = field(repr=False)

    def contents(self) -> list[bytes]:
        """The digest of each image's content, `UNREADABLE` for images that can't be read; empty with a stamp."""
        size = DIGEST_BYTES
        return [bytes(self._contents[at : at + size]) for at in range(0, len(self._contents), size)]

    def is_same(self, index: int) -> bool:
        """Whether a sample's file still has the same content; call it after reading the file."""
        file = sample_file(self._split, index)
        if file is None or not self._contents or _mark(file) == self._marks[index]:
            return True
        # The stamp has changed, but maybe not the content.
        mark, content = _mark(file), _content(file)
        if content != self._contents[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]:
            return False
        self._marks[index] = mark
        return True

    def require_same(self, indices: Iterable[int]) -> None:
        """Require that the images of these samples have not changed, after computing values from them.

        Raises:
            FtkitError: An image has been replaced; names its file.
        """
        for index in indices:
            if not self.is_same(index):
                raise FtkitError(
                    f"{sample_file(self._split, index)}: the image was replaced during this command",
                    "run it again when the data no longer changes",
                )


def image_digests(split: Split) -> ImageDigests:
    """Compute the digests of the images of a split.

    They come from `Split.stamp` and the sample names if there is a stamp; else from the content of the files, which are
    read unless their digests are in the scan cache; else from the pixels.
    """
    if split.stamp is not None:
        opens = type(_innermost(split))
        text = "\n".join(["stamp", opens.__module__, opens.__qualname__, split.stamp, *split.names])
        return ImageDigests(_digits(text.encode("utf-8", "surrogatepass")), split, bytearray(), array("q"))
    files, cache = SampleFiles(split), open_scan_cache()
    # Stamps first, so that a file replaced while this runs is noticed later.
    marks = array("q", (0 if file is None else _mark(file) for file in files))
    digests = cache.contents(file for file in files if file is not None)
    contents = bytearray()
    for index, file in enumerate(files):
        contents += _pixels(split, index) if file is None else next(digests) or UNREADABLE
    cache.trim()
    return ImageDigests(_digits(b"content\n", contents), split, contents, marks)


def stamp_digest(split: Split) -> str | None:
    """A digest that changes whenever a file of a split does, without reading any.

    It also changes when files are copied or moved. None for samples that aren't files.
    """
    files = SampleFiles(split)
    if not files.all_files:
        return None
    return _digits(b"stamps\n", b"".join(_stamp(file) for file in files if file is not None))


def _innermost(split: Split) -> object:
    """The dataset's opener, without its wrappers."""
    opens: object = split.source(0)[0] if len(split) else split.open
    while hasattr(opens, "opens"):
        opens = opens.opens
    return opens


def _pixels(split: Split, index: int) -> bytes:
    try:
        image = split.open(index)
    except FtkitError as error:
        if isinstance(error, UnreadableImage) or is_unreadable_image(error):
            return UNREADABLE
        raise
    try:
        image = load_upright(image)
    except Exception:
        # PIL decodes lazily; the error is raised when the image is read for training.
        return UNREADABLE
    return pixel_digest(image)


def pixel_digest(image: Image) -> bytes:
    """A digest of the pixels of a decoded image and of all that changes their colours, `DIGEST_BYTES` bytes."""
    digest = hashlib.blake2b(f"{image.mode} {image.size}\n".encode(), digest_size=DIGEST_BYTES)
    if image.palette is not None:
        digest.update(image.palette.tobytes())
    # Colour profile, transparency and depth change the colours of the same bytes.
    digest.update(repr([image.info.get(name) for name in ("icc_profile", "transparency", DEPTH)]).encode())
    digest.update(getattr(image.info.get(DEPTH), "content", None) or b"")
    digest.update(image.tobytes())
    return digest.digest()


def _mark(file: Path | str) -> int:
    """A number for the stamp of a file, valid in this process and those forked from it."""
    try:
        return hash(file_stamp(file))
    except OSError:
        return 0


def _stamp(file: str) -> bytes:
    try:
        return file_stamp(file).packed()
    except OSError:
        return b"missing"


def _content(file: Path) -> bytes:
    try:
        return content_digest(file)
    except OSError:
        return UNREADABLE


def _digits(*parts: bytes | bytearray) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
