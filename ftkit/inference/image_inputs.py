"""Images that callers pass for prediction: paths, bytes, file objects, PIL images, arrays and tensors."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from ftkit.data.images import Range, UnreadableImage, load_upright
from ftkit.data.loading.pixels import content_pixels, file_pixels, pixels_of
from ftkit.errors import RequestError, one_line

T = TypeVar("T")
Array = NDArray[np.uint8]
Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image | Array | Tensor
"""An image: the path of a file; a file's content, as bytes or a binary file object; a PIL image; a uint8 array
`(height, width)`, `(height, width, 3)` or `(height, width, 4)`; or a uint8 tensor `(3, height, width)`."""

ACCEPTED = (
    "give a path, the bytes of an image file, a file object opened in binary mode, a PIL image, a numpy array of uint8 "
    "with shape (h, w), (h, w, 3) or (h, w, 4), or a tensor of uint8 with shape (3, h, w)"
)


@dataclass(frozen=True)
class ImageInput:
    """An image under its name, copied where it was in memory.

    Attributes:
        content: A file's path, a file's content, or an image; None where there is an `error`.
        error: Why it can't be used, or None.
    """

    name: str
    content: Path | bytes | Image | None
    error: str | None = None


def image_inputs(images: object) -> Iterator[ImageInput]:
    """One image, or each of several, in order. Images in memory are copied, so the caller may change them at once."""
    for position, source in enumerate(_as_iterable(images)):
        yield _image_input(source, str(position))


def _as_iterable(images: object) -> Iterable[object]:
    if isinstance(images, np.ndarray | Tensor):
        return images if images.ndim == 4 else [images]
    one = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image) or hasattr(images, "read")
    return images if not one and isinstance(images, Iterable) else [images]


def _image_input(source: object, position: str) -> ImageInput:
    name = _name(source, position)
    try:
        return ImageInput(name, _content(source))
    except UnreadableImage as error:
        return ImageInput(name, None, error.message)
    except Exception as error:
        # File objects and images may raise any error; the other images must still be predicted.
        return ImageInput(name, None, one_line(f"can't be read: {error or type(error).__name__}"))


def _name(source: object, position: str) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    found = getattr(source, "filename", None) if isinstance(source, Image) else getattr(source, "name", None)
    is_file = isinstance(source, Image) or hasattr(source, "read")
    return os.fsdecode(found) if is_file and found and isinstance(found, str | os.PathLike) else position


def _content(source: object) -> Path | bytes | Image:
    """Raises UnreadableImage: The value has none of the types of `Source`."""
    if isinstance(source, str | os.PathLike):
        return Path(os.fsdecode(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, Image):
        # PIL reads lazily, and two threads with the same image would read it at the same time.
        return load_upright(source).copy()
    if isinstance(source, np.ndarray | Tensor):
        return PIL.Image.fromarray(_array(source))
    if hasattr(source, "read"):
        return _read(source)
    raise UnreadableImage(f"it is {_describe(source)}, not an image; {ACCEPTED}")


def _read(file: Any) -> bytes:
    if isinstance(file, io.TextIOBase):
        raise UnreadableImage("it is a file object in text mode; open it in binary mode ('rb')")
    # Files that can't seek, such as those of network libraries, are read from their current position.
    if hasattr(file, "seekable") and file.seekable():
        file.seek(0)
    content = file.read()
    if not isinstance(content, bytes | bytearray | memoryview):
        raise UnreadableImage(f"it is a file object that reads {type(content).__name__}; open it in binary mode ('rb')")
    return bytes(content)


def _array(source: Array | Tensor) -> Array:
    """A copy as `(height, width)` or `(height, width, 3 or 4)`."""
    shape, bands = tuple(source.shape), (3, 4)
    if isinstance(source, Tensor):
        fits = source.dtype == torch.uint8 and len(shape) == 3 and shape[0] == 3
    else:
        fits = source.dtype == np.uint8 and (len(shape) == 2 or (len(shape) == 3 and shape[2] in bands))
    if not fits:
        raise UnreadableImage(f"it is {_describe(source)}, not an image; {ACCEPTED}")
    if 0 in shape:
        raise UnreadableImage(f"it is {_describe(source)}, which has no pixels")
    if isinstance(source, Tensor):
        source = source.detach().cpu().permute(1, 2, 0).numpy()
    return np.array(source, order="C", copy=True, subok=False)


def _describe(source: object) -> str:
    if isinstance(source, np.ndarray | Tensor):
        what = "a tensor" if isinstance(source, Tensor) else "a numpy array"
        dtype = str(source.dtype).removeprefix("torch.")
        return f"{what} of {dtype} with shape {tuple(source.shape)}"
    return "None" if source is None else f"of type {type(source).__name__}"


def read_pixels(image: ImageInput, channels: int, value_range: Range | None) -> Tensor:
    """The pixels of an image, uint8 `(channels, height, width)`.

    Raises:
        UnreadableImage: It can't be read; the message is the reason, without the name.
    """
    try:
        if isinstance(image.content, Path):
            return file_pixels(image.content, channels, value_range)
        if isinstance(image.content, bytes):
            return content_pixels(image.content, image.name, channels, value_range)
        if image.content is not None and 0 not in image.content.size:
            return pixels_of(image.content, channels, value_range)
    except UnreadableImage as error:
        raise UnreadableImage(error.message.removeprefix(one_line(f"{image.name}: "))) from None
    raise UnreadableImage(image.error or "it has no pixels")


def try_read(read: Callable[[ImageInput], T], image: ImageInput) -> tuple[T | None, str | None]:
    """What `read` returns of an image, or the reason why it can't be read: the other images must still be used."""
    try:
        return read(image), None
    except UnreadableImage as error:
        return None, error.message
    except RequestError:
        raise
    except Exception as error:
        return None, one_line(f"can't be read: {error or type(error).__name__}")
