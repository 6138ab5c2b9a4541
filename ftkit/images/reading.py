"""Image files read the way a viewer shows them: upright, and in the colours that they mean."""

from __future__ import annotations

import io
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ftkit.errors import FtkitError
from ftkit.images.formats import add_reader, sniffed, support
from ftkit.spec.dataset import Split

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

ORIENTATION = 0x0112
"""The EXIF tag that says how the camera was held."""
HEAD = 32
"""Bytes of a file that tell its format."""


class UnreadableImage(FtkitError):
    """A file that is no image, is cut short, or is too large to be one in good faith."""


@dataclass(frozen=True)
class ImageFiles:
    """Opens the samples of a split by position, where each is a file.

    Attributes:
        root: Folder that the names are relative to.
        names: Paths, one a sample; absolute ones stand for themselves.
    """

    root: Path
    names: Sequence[str] = field(repr=False)

    def __call__(self, index: int) -> Image:
        return open_image(self.root / self.names[index])


def sample_file(split: Split, index: int) -> Path | None:
    """The file of a sample, or None where it comes out of something else, such as an array."""
    opens, position = split.source(index)
    return opens.root / opens.names[position] if isinstance(opens, ImageFiles) else None


def sample_name(split: Split, index: int) -> str:
    """What messages call a sample: the path of its file, else its name in the split."""
    file = sample_file(split, index)
    return str(file) if file is not None else split.names[index]


def open_image(path: str | Path) -> Image:
    """Read an image whole and turn it upright by its EXIF orientation; the mode stays the file's own.

    Of an animation it is the first frame.

    Raises:
        UnreadableImage: It can't be read; the message names the file and the reason.
    """
    return open_with_format(path)[0]


def open_with_format(path: str | Path) -> tuple[Image, str]:
    """The same, and what the file's content is, in PIL's words: `JPEG`, whatever the file's name says.

    Raises:
        UnreadableImage: As above.
    """
    try:
        size = _file_size(Path(path))
    except OSError as error:
        raise UnreadableImage(f"{path}: can't be read: {error.strerror or error}") from None
    return _decoded(path, size, str(path))


def decode_image(content: bytes, name: str) -> Image:
    """The same as `open_image` of what a file holds, for images that lie in something else.

    Args:
        name: Where they lie, for messages.

    Raises:
        UnreadableImage: As above.
    """
    return _decoded(io.BytesIO(content), len(content), name)[0]


def _decoded(source: str | Path | IO[bytes], size: int, name: str) -> tuple[Image, str]:
    from PIL import Image, UnidentifiedImageError

    try:
        with _opened(source) as image:
            _require_sane_size(image)
            image.load()
            return _upright(image), image.format or ""
    except UnidentifiedImageError:
        reason = _unidentified(source) if size else "the file is empty"
    except OSError as error:
        reason = f"can't be read: {error.strerror or error}"
    except Image.DecompressionBombWarning as error:  # Where warnings are made errors.
        reason = str(error)
    except Exception as error:
        # On broken files decoders raise whatever their parsing runs into, struct.error and KeyError too.
        reason = f"can't be read: {error or type(error).__name__}"
    raise UnreadableImage(f"{name}: {reason}")


def _opened(source: str | Path | IO[bytes]) -> Image:
    """What PIL opens; an optional package is loaded for the first file that needs it."""
    import PIL.Image

    try:
        return PIL.Image.open(source)
    except PIL.UnidentifiedImageError:
        suffix = sniffed(_head(source))
        if suffix is None or not add_reader(suffix):
            raise
        return PIL.Image.open(source)


def _unidentified(source: str | Path | IO[bytes]) -> str:
    suffix = sniffed(_head(source))
    remedy = support(suffix).remedy if suffix else None
    if suffix is None or remedy is None:
        return "not an image, or of a kind that can't be read here"
    return f"its content is {suffix[1:].upper()}, which can't be read without a package: {remedy}"


def _head(source: str | Path | IO[bytes]) -> bytes:
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            return file.read(HEAD)
    source.seek(0)
    head = source.read(HEAD)
    source.seek(0)
    return head


def _file_size(path: Path) -> int:
    """In bytes; what is no ordinary file is refused: opening a named pipe would wait for ever."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is not a file")
    return found.st_size


def is_sane_size(image: Image) -> bool:
    """Whether it has no more pixels than PIL's limit, beyond which PIL only warns: 268 MB of RGB."""
    import PIL.Image

    return PIL.Image.MAX_IMAGE_PIXELS is None or image.width * image.height <= PIL.Image.MAX_IMAGE_PIXELS


def _require_sane_size(image: Image) -> None:
    import PIL.Image

    if not is_sane_size(image):
        raise OSError(f"{image.width} x {image.height} pixels are more than the limit of {PIL.Image.MAX_IMAGE_PIXELS}")


def _upright(image: Image) -> Image:
    from PIL.Image import Transpose

    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:
        # Damaged metadata says nothing, but the picture itself is whole.
        return image
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def with_channels(image: Image, channels: int) -> Image:
    """The image as 8-bit grey (`channels=1`) or RGB (`channels=3`).

    What is transparent becomes white, as on a page. Values of 16 and 32 bits are scaled to 8 instead of
    cut off, which is what PIL's own conversion does: from 0..65535 for whole numbers; for others from
    0..1, 0..255 or 0..65535, the narrowest that holds them. Where none does, from the image's own range.
    """
    import PIL.Image

    mode = "L" if channels == 1 else "RGB"
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        image = _eight_bit(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    elif image.mode == "LAB":
        image = _from_lab(image)
    return image if image.mode == mode else image.convert(mode)


def _eight_bit(image: Image) -> Image:
    import numpy as np
    import PIL.Image

    values = np.asarray(image).astype(np.float64)
    low, high = _value_range(values, (65535.0,) if image.mode.startswith("I") else (1.0, 255.0, 65535.0))
    grey = np.nan_to_num((values - low) / (high - low) * 255.0, posinf=255.0, neginf=0.0).round()
    if isinstance(transparent := image.info.get("transparency"), int):
        grey[values == transparent] = 255
    return PIL.Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def _value_range(values: NDArray[np.float64], ceilings: tuple[float, ...]) -> tuple[float, float]:
    """The values that mean black and white."""
    import numpy as np

    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low >= 0:
        for ceiling in ceilings:
            if high <= ceiling:
                return 0.0, ceiling
    return low, high if high > low else low + 1.0


def _from_lab(image: Image) -> Image:
    """CIELAB as sRGB, which PIL converts by colour profiles alone."""
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
    assert converted is not None, "only a transform in place returns nothing"
    return converted
