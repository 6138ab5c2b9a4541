"""Images to predict as callers have them: paths, bytes, file objects, PIL images, arrays and tensors."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from ftkit.data.images import Range, UnreadableImage, load_upright
from ftkit.data.loading.pixels import content_pixels, file_pixels, pixels_of
from ftkit.errors import one_line

Array = NDArray[np.uint8]
Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image | Array | Tensor
"""An image: the path of a file; what a file holds, as bytes or a binary file object; a PIL image; a uint8 array
`(height, width)`, `(height, width, 3)` or `(height, width, 4)`; or a uint8 tensor `(3, height, width)`."""

TAKEN = (
    "give a path, the bytes of an image file, a file object opened in binary mode, a PIL image, a numpy array of uint8 "
    "with shape (h, w), (h, w, 3) or (h, w, 4), or a tensor of uint8 with shape (3, h, w)"
)


@dataclass(frozen=True)
class Item:
    """An image that nobody else changes any more, under its name; or why it can't be one.

    Attributes:
        content: A file's path, what a file holds, or an image; None where there is an `error`.
    """

    name: str
    content: Path | bytes | Image | None
    error: str | None = None


def items(images: object) -> Iterator[Item]:
    """One image, or each of several, in order. What is in memory is copied: the caller may reuse it at once."""
    for position, source in enumerate(_several(images)):
        yield _item(source, str(position))


def _several(images: object) -> Iterable[object]:
    if isinstance(images, np.ndarray | Tensor):
        return images if images.ndim == 4 else [images]
    one = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image) or hasattr(images, "read")
    return images if not one and isinstance(images, Iterable) else [images]


def _item(source: object, position: str) -> Item:
    name = _name(source, position)
    try:
        return Item(name, _content(source))
    except UnreadableImage as error:
        return Item(name, None, error.message)
    except Exception as error:
        # A file object or an image may raise whatever its maker thought of; the other images are to come all the same.
        return Item(name, None, one_line(f"can't be read: {error or type(error).__name__}"))


def _name(source: object, position: str) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    found = getattr(source, "filename", None) if isinstance(source, Image) else getattr(source, "name", None)
    is_file = isinstance(source, Image) or hasattr(source, "read")
    return os.fsdecode(found) if is_file and found and isinstance(found, str | os.PathLike) else position


def _content(source: object) -> Path | bytes | Image:
    """Raises UnreadableImage: It is nothing that an image can be given as."""
    if isinstance(source, str | os.PathLike):
        return Path(os.fsdecode(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, Image):
        # PIL reads late, and two threads with the same image would read it at once.
        return load_upright(source).copy()
    if isinstance(source, np.ndarray | Tensor):
        return PIL.Image.fromarray(_array(source))
    if hasattr(source, "read"):
        return _read(source)
    raise UnreadableImage(f"it is {_kind(source)}, which is no image; {TAKEN}")


def _read(file: Any) -> bytes:
    if isinstance(file, io.TextIOBase):
        raise UnreadableImage("it is a file object that gives text; open it in binary mode ('rb')")
    # Objects that only read, as those of network libraries and older temporary files, begin where they are.
    if hasattr(file, "seekable") and file.seekable():
        file.seek(0)
    content = file.read()
    if not isinstance(content, bytes | bytearray | memoryview):
        raise UnreadableImage(f"it is a file object that gives {type(content).__name__}; open it in binary mode ('rb')")
    return bytes(content)


def _array(source: Array | Tensor) -> Array:
    """A copy as `(height, width)` or `(height, width, 3 or 4)`."""
    shape, bands = tuple(source.shape), (3, 4)
    if isinstance(source, Tensor):
        fits = source.dtype == torch.uint8 and len(shape) == 3 and shape[0] == 3
    else:
        fits = source.dtype == np.uint8 and (len(shape) == 2 or (len(shape) == 3 and shape[2] in bands))
    if not fits:
        raise UnreadableImage(f"it is {_kind(source)}, which is no image; {TAKEN}")
    if 0 in shape:
        raise UnreadableImage(f"it is {_kind(source)}, which has no pixels")
    if isinstance(source, Tensor):
        source = source.detach().cpu().permute(1, 2, 0).numpy()
    return np.array(source, order="C", copy=True, subok=False)


def _kind(source: object) -> str:
    if isinstance(source, np.ndarray | Tensor):
        what = "a tensor" if isinstance(source, Tensor) else "a numpy array"
        dtype = str(source.dtype).removeprefix("torch.")
        return f"{what} of {dtype} with shape {tuple(source.shape)}"
    return "None" if source is None else f"of type {type(source).__name__}"


def item_pixels(item: Item, channels: int, value_range: Range | None) -> Tensor:
    """An item's pixels, uint8 `(channels, height, width)`.

    Raises:
        UnreadableImage: It has none; the message is the reason alone.
    """
    try:
        if isinstance(item.content, Path):
            return file_pixels(item.content, channels, value_range)
        if isinstance(item.content, bytes):
            return content_pixels(item.content, item.name, channels, value_range)
        if item.content is not None and 0 not in item.content.size:
            return pixels_of(item.content, channels, value_range)
    except UnreadableImage as error:
        raise UnreadableImage(error.message.removeprefix(one_line(f"{item.name}: "))) from None
    raise UnreadableImage(item.error or "it has no pixels")
