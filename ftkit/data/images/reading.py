"""Reading image files: decoded, upright, and with the reason in one line if a file can't be read."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ftkit.data.images.depth import read_depth
from ftkit.data.images.formats import add_reader, sniffed, support
from ftkit.data.images.orientation import upright
from ftkit.errors import FtkitError, RequestError
from ftkit.files.file_kinds import HEAD as KIND_HEAD
from ftkit.files.file_kinds import is_image_kind, kind_of_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

RULES = 2
"""Version of the rules from files to pixels; results computed with other versions aren't reused."""

LIMIT = "FTKIT_MAX_IMAGE_PIXELS"
"""Environment variable of the pixel limit."""

RAISE_LIMIT = f"set {LIMIT} to read larger images"

EXTRA_SAMPLES = 338
"""The TIFF tag with the meaning of additional bands."""

ALPHA = (1, 2)
"""Its values for alpha, premultiplied or not."""

HEAD = 32
"""Bytes at the start of a file from which its format is detected."""


class UnreadableImage(FtkitError):
    """A file that is not an image, is truncated or damaged, or exceeds the pixel limit."""


class ReadWhole:
    """Wraps the opener of a dataset so that images are decoded at once.

    PIL decodes lazily and would only find later that a file is truncated or was closed.

    Attributes:
        opens: The dataset's opener.
        names: Names of the samples.

    Raises:
        UnreadableImage: The image can't be read; names the sample and the reason.
    """

    def __init__(self, opens: Callable[[int], Image], names: Sequence[str]) -> None:
        self.opens = opens
        self.names = names

    def __call__(self, index: int) -> Image:
        image = self.opens(index)
        try:
            return load_upright(image)
        except Exception as error:  # decoders raise any exception for damaged files
            name = self.names[index]
            raise UnreadableImage(f"{name}: can't be read: {error or type(error).__name__}") from error


def open_image(path: str | Path) -> Image:
    """Decode an image file and rotate it upright by its metadata; the mode is that of the file.

    An animation gives its first frame.

    Raises:
        UnreadableImage: The file can't be read; names the file and the reason.
    """
    return open_with_format(path)[0]


def open_with_format(path: str | Path) -> tuple[Image, str]:
    """As `open_image`, with the format of the content in PIL's terms, such as `JPEG`, whatever the extension is.

    Raises:
        UnreadableImage: As for `open_image`.
    """
    try:
        size = _file_size(Path(path))
    except OSError as error:
        raise UnreadableImage(f"{path}: can't be read: {error.strerror or error}") from None
    return _decoded(path, size, str(path))


def decode_image(content: bytes, name: str) -> Image:
    """As `open_image`, from the bytes of an image file.

    Args:
        name: Name of the image in messages.

    Raises:
        UnreadableImage: As for `open_image`.
    """
    return _decoded(io.BytesIO(content), len(content), name)[0]


def _decoded(source: str | Path | IO[bytes], size: int, name: str) -> tuple[Image, str]:
    from PIL import Image, UnidentifiedImageError

    limit = pixel_limit()
    try:
        with _opened(source, limit) as image:
            _require_within_limit(image, limit)
            return load_upright(image), image.format or ""
    except UnidentifiedImageError:
        reason = _unidentified(source) if size else "the file is empty"
    except OSError as error:
        reason = f"can't be read: {error.strerror or error}"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # PIL's own limit, or its warning if warnings are errors.
        reason = f"{error}; {RAISE_LIMIT}"
    except Exception as error:
        # On damaged files decoders raise any exception, such as struct.error and KeyError.
        reason = f"can't be read: {error or type(error).__name__}"
    raise UnreadableImage(f"{name}: {reason}")


def load_upright(image: Image) -> Image:
    """Decode an opened image, rotate it upright, and drop a fourth band that isn't alpha.

    The `Depth` of the file is stored in `info`; colour profile and depth are left to `with_channels`. Calling it again
    has no effect.

    Raises:
        Exception: Any exception of PIL for a damaged file.
    """
    if not image.width or not image.height:
        raise OSError(f"the image has no pixels: {image.width} x {image.height}")
    _load(image)
    return upright(_without_extra_band(image))


def _load(image: Image) -> None:
    """Decode an image after `read_depth`.

    PIL memory-maps uncompressed files with their upright size, which scrambles a TIFF with a sideways orientation.
    Without a file name PIL reads the file instead.
    """
    name = getattr(image, "filename", "")
    if name and hasattr(image, "tag_v2"):
        image.filename = ""  # type: ignore[attr-defined]
    try:
        read_depth(image)
        image.load()
    finally:
        if name:
            image.filename = name  # type: ignore[attr-defined]


def _without_extra_band(image: Image) -> Image:
    """Drop the fourth band of a TIFF, which PIL treats as alpha, unless the file declares it as alpha."""
    tags = getattr(image, "tag_v2", None)
    if image.mode != "RGBA" or tags is None or set(tags.get(EXTRA_SAMPLES) or ()) & set(ALPHA):
        return image
    return image.convert("RGB")


def open_header(path: str | Path) -> Image:
    """Open an image file without decoding it, for its mode and its size (`orientation.upright_size`).

    Raises:
        Exception: Any exception of PIL for a damaged file; `open_image` gives the reason in one line.
    """
    limit = pixel_limit()
    image = _opened(path, limit)
    _require_within_limit(image, limit)
    return image


def _opened(source: str | Path | IO[bytes], limit: int | None) -> Image:
    """Open with PIL; an optional reader is loaded for the first file that needs it."""
    import PIL.Image

    if limit is not None and PIL.Image.MAX_IMAGE_PIXELS is not None and limit > 2 * PIL.Image.MAX_IMAGE_PIXELS:
        # PIL itself refuses images with more than twice this many pixels.
        PIL.Image.MAX_IMAGE_PIXELS = limit
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
        kind = kind_of_bytes(_head(source, KIND_HEAD))
        if kind is None or is_image_kind(kind):
            return f"{kind} that can't be read" if kind else "not an image, or of a format that can't be read"
        return f"not an image, but {kind}"
    return f"the content is {suffix[1:].upper()}, which needs a package: {remedy}"


def _head(source: str | Path | IO[bytes], size: int = HEAD) -> bytes:
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            return file.read(size)
    source.seek(0)
    head = source.read(size)
    source.seek(0)
    return head


def _file_size(path: Path) -> int:
    """In bytes; only for regular files, since opening a named pipe would block."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError("not a regular file")
    return found.st_size


def pixel_limit() -> int | None:
    """The maximum number of pixels of an image; None for no limit.

    It is `FTKIT_MAX_IMAGE_PIXELS`, else the limit of PIL, twice `PIL.Image.MAX_IMAGE_PIXELS`: 179 million pixels, 537
    MB of RGB.

    Raises:
        RequestError: The variable is not a positive integer.
    """
    import PIL.Image

    given = os.environ.get(LIMIT)
    if given is None:
        return None if PIL.Image.MAX_IMAGE_PIXELS is None else 2 * PIL.Image.MAX_IMAGE_PIXELS
    if not given.isdecimal() or int(given) < 1:
        raise RequestError(f"{LIMIT} is {given!r}", "set it to a maximum number of pixels, such as 500000000")
    return int(given)


def is_within_limit(image: Image, limit: int | None) -> bool:
    """Whether the image has no more pixels than the limit."""
    return limit is None or image.width * image.height <= limit


def _require_within_limit(image: Image, limit: int | None) -> None:
    if not is_within_limit(image, limit):
        raise OSError(f"{image.width} x {image.height} pixels exceed the limit of {limit}; {RAISE_LIMIT}")
