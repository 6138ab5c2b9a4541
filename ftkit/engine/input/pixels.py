"""From a sample to its pixels, uint8 `(channels, height, width)`: what transforms begin with.

Most images are JPEGs in colour or grey, which torchcodec decodes into a tensor in less time than PIL takes, to the very
same values; torchvision's own decoders are deprecated in its favour. All others, and whatever that decoder stumbles
over, go the way of `ftkit.images`, which knows every mode and says what is wrong with a file.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import PIL
import PIL.Image
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F  # noqa: N812

import ftkit
from ftkit.images import is_sane_size, open_image, sample_file, with_channels
from ftkit.spec.dataset import Split

try:
    from torchcodec.decoders import decode_jpeg  # type: ignore[attr-defined]
except (ImportError, OSError, RuntimeError):
    # Its binaries go with some versions of torch alone; without them PIL reads all files.
    decode_jpeg = None  # type: ignore[assignment]

Mode = Literal["RGB", "GRAY"]
MODES: Mapping[tuple[str, int], Mode] = {("RGB", 3): "RGB", ("L", 3): "RGB", ("L", 1): "GRAY"}
"""PIL's mode and the channels wanted, where the decoder gives what PIL would. It makes grey of RGB in another way."""


def decoder_versions() -> list[str]:
    """What decides the pixels of an image: they may differ between versions of it."""
    found = [f"ftkit {ftkit.__version__}", f"pillow {PIL.__version__}"]
    return found + ([f"torchcodec {version('torchcodec')}"] if decode_jpeg is not None else [])


def sample_pixels(split: Split, index: int, channels: int) -> Tensor:
    """A sample's pixels, upright, with so many channels.

    Raises:
        UnreadableImage: The file can't be read; the message names it and the reason.
    """
    file = sample_file(split, index)
    return pixels_of(split.open(index), channels) if file is None else file_pixels(file, channels)


def file_pixels(path: str | Path, channels: int) -> Tensor:
    """An image file's pixels, as `sample_pixels`."""
    found = _jpeg(Path(path), channels)
    return pixels_of(open_image(path), channels) if found is None else found


def pixels_of(image: Image, channels: int) -> Tensor:
    """The pixels of an image of any PIL mode; what becomes of transparency and deep colours `with_channels` says."""
    pixels: Tensor = F.pil_to_tensor(with_channels(image, channels))
    return pixels


def _jpeg(path: Path, channels: int) -> Tensor | None:
    """A plain JPEG's pixels, None where the file is anything else."""
    try:
        if decode_jpeg is None or not path.is_file():
            return None
        content = path.read_bytes()
        with PIL.Image.open(io.BytesIO(content), formats=("JPEG",)) as header:
            mode = MODES.get((header.mode, channels))
            # PIL calls a JPEG with a second one in it, as cameras write them, an MPO.
            if mode is None or header.format != "JPEG" or not is_sane_size(header):
                return None
        # It turns the pixels by the EXIF orientation, as the other way does.
        found = decode_jpeg(content, mode=mode)
    except Exception:
        # Each of the ways in which a file can be broken is told by the other reader.
        return None
    return found if isinstance(found, Tensor) else None
