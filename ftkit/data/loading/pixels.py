"""From a sample to its pixels, uint8 `(channels, height, width)`: what transforms begin with.

Most images are JPEGs in colour or grey, which torchcodec decodes into a tensor in less time than PIL takes, to the very
same values; torchvision's own decoders are deprecated in its favour. All others, and whatever that decoder stumbles
over, go to `ftkit.data.images`, which knows every mode and says what is wrong with a file. What the headers mean is
`ftkit.data.images`' alone to say: the decoder sees no EXIF, and gets no image whose colours must be converted.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import PIL
import PIL.Image
import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F  # noqa: N812

import ftkit
from ftkit.data.images import (
    RULES,
    Range,
    UnreadableImage,
    as_seen,
    decode_image,
    is_sane_size,
    is_srgb,
    open_image,
    orientation_of,
    pixel_limit,
    sample_file,
    with_channels,
)
from ftkit.parts.dataset import Split

try:
    from torchcodec.decoders import decode_jpeg  # type: ignore[attr-defined]
except (ImportError, OSError, RuntimeError):
    # Its binaries go with some versions of torch alone; without them PIL reads all files.
    decode_jpeg = None  # type: ignore[assignment]

Mode = Literal["RGB", "GRAY"]
MODES: Mapping[tuple[str, int], Mode] = {("RGB", 3): "RGB", ("L", 3): "RGB", ("L", 1): "GRAY"}
"""PIL's mode and the channels wanted, where the decoder gives what PIL would. It makes grey of RGB in another way."""

START_OF_SCAN, APP1, APP15 = 0xDA, 0xE1, 0xEF
"""Markers of JPEG segments: where the pixels begin, EXIF and XMP, and what no decoder looks into."""

EXIF_MARKER, END_OF_IMAGE = b"\xff\xe1", b"\xff\xd9"

NO_SEGMENT = frozenset({0x00, 0x01, *range(0xD0, 0xDA), 0xFF})
"""Markers that no length follows."""

Flips = tuple[int, ...]
TURNS: Mapping[int, tuple[bool, Flips]] = {
    1: (False, ()),
    2: (False, (-1,)),
    3: (False, (-2, -1)),
    4: (False, (-2,)),
    5: (True, ()),
    6: (True, (-1,)),
    7: (True, (-2, -1)),
    8: (True, (-2,)),
}
"""By EXIF orientation: whether rows and columns are exchanged, and then what is mirrored, to be upright."""


def decoder_versions() -> list[str]:
    """What decides the pixels of an image: they may differ between versions of it."""
    found = [f"ftkit {ftkit.__version__}, rules {RULES}", f"pillow {PIL.__version__}"]
    return found + ([f"torchcodec {version('torchcodec')}"] if decode_jpeg is not None else [])


def sample_pixels(split: Split, index: int, channels: int, value_range: Range | None = None) -> Tensor:
    """A sample's pixels, upright, in sRGB, with so many channels.

    Args:
        value_range: The values that mean black and white in images of more than 8 bits that don't say so themselves.

    Raises:
        UnreadableImage: The file can't be read; the message names it and the reason.
    """
    file = sample_file(split, index)
    if file is not None:
        return file_pixels(file, channels, value_range)
    image = split.open(index)
    try:
        return pixels_of(image, channels, value_range)
    except Exception as error:
        # PIL reads late, and finds only here that what a dataset opened is cut short.
        raise UnreadableImage(f"{split.names[index]}: can't be read: {error or type(error).__name__}") from error


def file_pixels(path: str | Path, channels: int, value_range: Range | None = None) -> Tensor:
    """An image file's pixels, as `sample_pixels`."""
    found = _jpeg(Path(path), channels)
    return pixels_of(open_image(path), channels, value_range) if found is None else found


def content_pixels(content: bytes, name: str, channels: int, value_range: Range | None = None) -> Tensor:
    """The pixels of what an image file holds, as `sample_pixels`; `name` is for messages."""
    found = _jpeg_content(content, channels)
    return pixels_of(decode_image(content, name), channels, value_range) if found is None else found


def pixels_of(image: Image, channels: int, value_range: Range | None = None) -> Tensor:
    """The pixels of an image of any PIL mode, as `sample_pixels`; of transparency and colours `with_channels` says.

    An image that carries an orientation in its metadata is turned upright by it.

    Raises:
        Exception: Whatever PIL runs into where it reads late, in a damaged file.
    """
    pixels: Tensor = F.pil_to_tensor(with_channels(as_seen(image), channels, value_range))
    return pixels


def _jpeg(path: Path, channels: int) -> Tensor | None:
    try:
        return _jpeg_content(path.read_bytes(), channels) if decode_jpeg is not None and path.is_file() else None
    except OSError:
        # Why it can't be read is told by the other reader.
        return None


def _jpeg_content(content: bytes, channels: int) -> Tensor | None:
    """A plain JPEG's pixels, None where the content is anything else."""
    limit = pixel_limit()
    try:
        with PIL.Image.open(io.BytesIO(content), formats=("JPEG",)) as header:
            mode = MODES.get((header.mode, channels))
            # PIL calls a JPEG with a second one in it, as cameras write them, an MPO.
            plain = header.format == "JPEG" and is_sane_size(header, limit) and is_srgb(header)
            if mode is None or not plain or decode_jpeg is None:
                return None
            orientation = orientation_of(header)
        found = decode_jpeg(_without_exif(content), mode=mode)
        return turned(found, orientation) if isinstance(found, Tensor) else None
    except Exception:
        # Each of the ways in which a file can be broken is told by the other reader.
        return None


def turned(pixels: Tensor, orientation: int) -> Tensor:
    """Pixels `(channels, height, width)` as they are upright, by an EXIF orientation."""
    exchanged, flips = TURNS[orientation]
    pixels = pixels.transpose(-2, -1) if exchanged else pixels
    return pixels.flip(flips) if flips else pixels


def _without_exif(content: bytes) -> bytes | Tensor:
    """A JPEG in which the decoder finds no EXIF to turn the pixels by: it reads that in other ways than PIL.

    Raises:
        ValueError: The segments before the pixels don't follow on one another, or there is one between scans, which
            the decoder reads and PIL doesn't.
    """
    places, place = [], 2
    while (marker := content[place + 1]) != START_OF_SCAN:
        length = int.from_bytes(content[place + 2 : place + 4])
        if content[place] != 0xFF or marker in NO_SEGMENT or length < 2:
            raise ValueError("not a segment")
        places += [place + 1] if marker == APP1 else []
        place += 2 + length
    # Among pixels these bytes are a marker: a zero follows an 0xFF that is a value.
    if content.find(EXIF_MARKER, place, content.find(END_OF_IMAGE, place)) >= 0:
        raise ValueError("a segment between scans")
    if not places:
        return content
    changed = bytearray(content)
    for at in places:
        changed[at] = APP15
    return torch.frombuffer(changed, dtype=torch.uint8)
