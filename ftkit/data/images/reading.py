"""Image files read whole and turned upright; what can't be read says why in one line."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ftkit.data.images.depth import read_depth
from ftkit.data.images.formats import add_reader, sniffed, support
from ftkit.data.images.orientation import upright
from ftkit.errors import FtkitError, RequestError
from ftkit.files.file_kinds import HEAD as KIND_HEAD
from ftkit.files.file_kinds import is_image_kind, kind_of_bytes
from ftkit.parts.dataset import Split

if TYPE_CHECKING:
    from PIL.Image import Image

RULES = 2
"""The version of the rules by which files become pixels; what was computed by others isn't reused."""

LIMIT = "FTKIT_MAX_IMAGE_PIXELS"
"""The environment variable, which worker processes and other commands share."""

RAISE_LIMIT = f"set {LIMIT} to read larger images"

EXTRA_SAMPLES = 338
"""The TIFF tag that says what bands beyond those of the colours are."""

ALPHA = (1, 2)
"""Its values for alpha, with colours multiplied by it or not."""

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

    def file(self, index: int) -> Path | None:
        """The file that a sample is, as it stands; None where a subclass makes something else of it."""
        as_it_stands = type(self).__call__ is ImageFiles.__call__
        return self.root / self.names[index] if as_it_stands else None


class ReadWhole:
    """Opens what a dataset opens by position, and reads each image whole.

    PIL reads late: only then it finds that what it was given is cut short or was closed meanwhile.

    Attributes:
        opens: The dataset's own.
        names: Of the samples, by position.

    Raises:
        UnreadableImage: The image can't be read; the message names the sample and the reason.
    """

    def __init__(self, opens: Callable[[int], Image], names: Sequence[str]) -> None:
        self.opens = opens
        self.names = names

    def __call__(self, index: int) -> Image:
        image = self.opens(index)
        try:
            return as_seen(image)
        except Exception as error:  # decoders raise whatever their parsing runs into
            name = self.names[index]
            raise UnreadableImage(f"{name}: can't be read: {error or type(error).__name__}") from error


def sample_file(split: Split, index: int) -> Path | None:
    """The file that a sample is, or None where it comes out of something else, such as an array."""
    opens, position = split.source(index)
    return opens.file(position) if isinstance(opens, ImageFiles) else None


def sample_name(split: Split, index: int) -> str:
    """What messages call a sample: the path of its file, else its name in the split."""
    file = sample_file(split, index)
    return str(file) if file is not None else split.names[index]


def open_image(path: str | Path) -> Image:
    """Read an image whole and turn it upright by its metadata; the mode stays the file's own.

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

    limit = pixel_limit()
    try:
        with _opened(source, limit) as image:
            _require_sane_size(image, limit)
            return as_seen(image), image.format or ""
    except UnidentifiedImageError:
        reason = _unidentified(source) if size else "the file is empty"
    except OSError as error:
        reason = f"can't be read: {error.strerror or error}"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # PIL's own limit, or its warning where warnings are errors.
        reason = f"{error}; {RAISE_LIMIT}"
    except Exception as error:
        # On broken files decoders raise whatever their parsing runs into, struct.error and KeyError too.
        reason = f"can't be read: {error or type(error).__name__}"
    raise UnreadableImage(f"{name}: {reason}")


def as_seen(image: Image) -> Image:
    """An image that PIL has opened, as a viewer shows it: read whole, upright, without bands that aren't its own.

    What its file says of its values goes into its `info`; colour profile and depth are left to `with_channels`. Doing
    it again changes nothing.

    Raises:
        Exception: Whatever PIL runs into in a damaged file.
    """
    if not image.width or not image.height:
        raise OSError(f"it has no pixels: it is {image.width} x {image.height}")
    _load(image)
    return upright(_without_extra_band(image))


def _load(image: Image) -> None:
    """Read an image whole, after noting what decoding would lose.

    PIL maps uncompressed files into memory by the size that they have upright, so that a TIFF that lies on its side
    would come out scrambled, and otherwise than from a file object. Without a name it reads them.
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
    """PIL takes the fourth band of a TIFF in RGB for alpha even where nothing in the file calls it that."""
    tags = getattr(image, "tag_v2", None)
    if image.mode != "RGBA" or tags is None or set(tags.get(EXTRA_SAMPLES) or ()) & set(ALPHA):
        return image
    return image.convert("RGB")


def open_header(path: str | Path) -> Image:
    """An image file opened but not decoded: for its size, which `orientation.upright_size` tells, and its mode.

    Raises:
        Exception: Whatever PIL runs into; whoever wants the pixels is told by `open_image`.
    """
    limit = pixel_limit()
    image = _opened(path, limit)
    _require_sane_size(image, limit)
    return image


def _opened(source: str | Path | IO[bytes], limit: int | None) -> Image:
    """What PIL opens; an optional package is loaded for the first file that needs it."""
    import PIL.Image

    if limit is not None and PIL.Image.MAX_IMAGE_PIXELS is not None and limit > 2 * PIL.Image.MAX_IMAGE_PIXELS:
        # PIL refuses by itself what has more than twice this many.
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
            return f"{kind} that can't be read here" if kind else "not an image, or of a kind that can't be read here"
        return f"not an image, but {kind}"
    return f"its content is {suffix[1:].upper()}, which can't be read without a package: {remedy}"


def _head(source: str | Path | IO[bytes], size: int = HEAD) -> bytes:
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            return file.read(size)
    source.seek(0)
    head = source.read(size)
    source.seek(0)
    return head


def _file_size(path: Path) -> int:
    """In bytes; what is no ordinary file is refused: opening a named pipe would wait for ever."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is not a file")
    return found.st_size


def pixel_limit() -> int | None:
    """The most pixels that an image may have; None for no limit.

    It is that of `FTKIT_MAX_IMAGE_PIXELS`, else the size at which PIL itself refuses to open a file, which is twice
    `PIL.Image.MAX_IMAGE_PIXELS`: 179 million, 537 MB of RGB.

    Raises:
        RequestError: The variable is no positive number.
    """
    import PIL.Image

    given = os.environ.get(LIMIT)
    if given is None:
        return None if PIL.Image.MAX_IMAGE_PIXELS is None else 2 * PIL.Image.MAX_IMAGE_PIXELS
    if not given.isdecimal() or int(given) < 1:
        raise RequestError(f"{LIMIT} is {given!r}", "give the most pixels an image may have, such as 500000000")
    return int(given)


def is_sane_size(image: Image, limit: int | None) -> bool:
    """Whether it has no more pixels than the limit."""
    return limit is None or image.width * image.height <= limit


def _require_sane_size(image: Image, limit: int | None) -> None:
    if not is_sane_size(image, limit):
        raise OSError(f"{image.width} x {image.height} pixels are more than the limit of {limit}; {RAISE_LIMIT}")
