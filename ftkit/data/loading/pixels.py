"""Decoding a sample to pixels, uint8 `(channels, height, width)`, the input of transforms.

Most images are JPEGs in colour or grey. torchcodec decodes these into a tensor faster than PIL, with identical values;
torchvision's decoders are deprecated in its favour. All other images, and those that torchcodec fails on, are read by
`ftkit.data.images`, which supports every mode and gives the reason if a file can't be read. Orientation and colour
profiles are also handled there only: torchcodec gets neither EXIF nor images whose colours need conversion.
"""

from __future__ import annotations

import io
import re
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
    decode_image,
    is_srgb,
    is_within_limit,
    load_upright,
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
    # Its binaries support only some versions of torch; without them PIL reads all files.
    decode_jpeg = None  # type: ignore[assignment]

Mode = Literal["RGB", "GRAY"]
MODES: Mapping[tuple[str, int], Mode] = {("RGB", 3): "RGB", ("L", 3): "RGB", ("L", 1): "GRAY"}
"""PIL's mode and the requested channels -> mode of the decoder, where its values equal PIL's (not for RGB to grey)."""

START_OF_SCAN, APP1, APP15 = 0xDA, 0xE1, 0xEF
"""Markers of JPEG segments: start of the pixels, EXIF and XMP, and a segment that decoders ignore."""

EXIF_MARKER = b"\xff\xe1"
EXIF_OR_END = re.compile(b"\xff[\xe1\xd9]")
"""An EXIF segment, or the end of the image. One search takes a quarter of the time of `bytes.find` for both."""

NO_SEGMENT = frozenset({0x00, 0x01, *range(0xD0, 0xDA), 0xFF})
"""Markers without a length."""

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
"""By EXIF orientation: whether to transpose, and which dimensions to flip afterwards."""


def decoder_versions() -> list[str]:
    """The versions that determine the pixels of an image."""
    found = [f"ftkit {ftkit.__version__}, rules {RULES}", f"pillow {PIL.__version__}"]
    return found + ([f"torchcodec {version('torchcodec')}"] if decode_jpeg is not None else [])


def sample_pixels(split: Split, index: int, channels: int, value_range: Range | None = None) -> Tensor:
    """A sample's pixels, upright, in sRGB.

    Args:
        channels: 1 or 3.
        value_range: Values of black and white for images of more than 8 bits that don't declare them.

    Raises:
        UnreadableImage: The file can't be read; names the file and the reason.
    """
    file = sample_file(split, index)
    if file is not None:
        return file_pixels(file, channels, value_range)
    image = split.open(index)
    try:
        return pixels_of(image, channels, value_range)
    except Exception as error:
        # PIL decodes lazily: a truncated image is found only here.
        raise UnreadableImage(f"{split.names[index]}: can't be read: {error or type(error).__name__}") from error


def file_pixels(path: str | Path, channels: int, value_range: Range | None = None) -> Tensor:
    """The pixels of an image file, as `sample_pixels`."""
    found = _jpeg(Path(path), channels)
    return pixels_of(open_image(path), channels, value_range) if found is None else found


def content_pixels(content: bytes, name: str, channels: int, value_range: Range | None = None) -> Tensor:
    """The pixels of the bytes of an image file, as `sample_pixels`; `name` is for messages."""
    found = _jpeg_content(content, channels)
    return pixels_of(decode_image(content, name), channels, value_range) if found is None else found


def pixels_of(image: Image, channels: int, value_range: Range | None = None) -> Tensor:
    """The pixels of an image of any PIL mode, upright, converted by `with_channels`.

    Raises:
        Exception: Any exception of PIL for a damaged file.
    """
    pixels: Tensor = F.pil_to_tensor(with_channels(load_upright(image), channels, value_range))
    return pixels


def _jpeg(path: Path, channels: int) -> Tensor | None:
    try:
        return _jpeg_content(path.read_bytes(), channels) if decode_jpeg is not None and path.is_file() else None
    except OSError:
        # The other reader gives the reason.
        return None


def _jpeg_content(content: bytes, channels: int) -> Tensor | None:
    """The pixels of a JPEG that needs no conversion; None for any other content."""
    limit = pixel_limit()
    try:
        with PIL.Image.open(io.BytesIO(content), formats=("JPEG",)) as header:
            mode = MODES.get((header.mode, channels))
            # A JPEG that contains a second one, as cameras write it, has the format MPO in PIL.
            plain = header.format == "JPEG" and is_within_limit(header, limit) and is_srgb(header)
            if mode is None or not plain or decode_jpeg is None:
                return None
            orientation = orientation_of(header)
        found = decode_jpeg(_without_exif(content), mode=mode)
        return turned(found, orientation) if isinstance(found, Tensor) else None
    except Exception:
        # The other reader gives the reason.
        return None


def turned(pixels: Tensor, orientation: int) -> Tensor:
    """Rotate pixels `(channels, height, width)` upright by an EXIF orientation."""
    exchanged, flips = TURNS[orientation]
    pixels = pixels.transpose(-2, -1) if exchanged else pixels
    return pixels.flip(flips) if flips else pixels


def _without_exif(content: bytes) -> bytes | Tensor:
    """Hide the EXIF segments of a JPEG from the decoder, which would rotate by other rules than PIL.

    Raises:
        ValueError: The segments before the pixels are invalid, or there is an EXIF segment between scans, which the
            decoder reads and PIL doesn't.
    """
    places, place = [], 2
    while (marker := content[place + 1]) != START_OF_SCAN:
        length = int.from_bytes(content[place + 2 : place + 4])
        if content[place] != 0xFF or marker in NO_SEGMENT or length < 2:
            raise ValueError("not a segment")
        places += [place + 1] if marker == APP1 else []
        place += 2 + length
    # Within the pixels these bytes can only be a marker: an 0xFF value is followed by a zero.
    found = EXIF_OR_END.search(content, place)
    if found is not None and found[0] == EXIF_MARKER:
        raise ValueError("a segment between scans")
    if not places:
        return content
    changed = bytearray(content)
    for at in places:
        changed[at] = APP15
    return torch.frombuffer(changed, dtype=torch.uint8)
