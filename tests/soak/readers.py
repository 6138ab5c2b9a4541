"""Readers of files, called thousands of times: the one place where soak tests import the inside."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from ftkit.api import Backbone, FtkitError, SkippedFiles, open_image
from ftkit.builtin.datasets.unpacking import unpack
from ftkit.cli.flags import FLAGS
from ftkit.cli.image_paths import find_images, read_path_list
from ftkit.config.load import resolve, to_yaml
from ftkit.config.schema import Config
from ftkit.data.images import open_header, upright_size
from ftkit.data.loading.pixels import content_pixels, file_pixels, pixels_of
from ftkit.models.weights.files import Contents
from ftkit.models.weights.pretrained import Target, load_into
from ftkit.project.update import BASE, RECORD, read_record
from ftkit.runs.checkpoint import load_checkpoint
from ftkit.runs.model_card import read_card

__all__ = ["BASE", "RECORD", "read_card", "read_record", "resolve", "to_yaml", "unpack"]

FLAG_NAMES = sorted({name for flag in FLAGS for name in flag.names if name.startswith("--")})
SECTIONS = Config.model_fields
Range = tuple[float, float]


def config_keys(model: Any = Config, prefix: str = "") -> Iterator[str]:
    """All keys of the config, dotted."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if hasattr(field.annotation, "model_fields"):
            yield from config_keys(field.annotation, f"{prefix}{name}.")


def read_checkpoint(folder: Path) -> None:
    """Read the newest checkpoint, as a resumed run does first.

    Raises:
        FtkitError: It is damaged, even where an older one isn't.
    """
    _, damaged = load_checkpoint(folder)
    if damaged:
        raise FtkitError(damaged[0])


def found_images(*arguments: str) -> list[str]:
    """Images that `ftkit predict` finds for its arguments."""
    return [str(path) for path in find_images(list(arguments), None, SkippedFiles())]


def listed_paths(content: bytes) -> list[str]:
    """Paths that `ftkit predict -` reads on stdin."""
    stdin: Any = SimpleNamespace(buffer=io.BytesIO(content))
    return list(read_path_list(stdin))


def load_weights(network: nn.Module, backbone: Backbone, state: Mapping[str, Tensor]) -> None:
    """Load the content of a weights file, but for the head."""
    load_into(network, Contents(state), Target(backbone.head, backbone.groups))


def pixel_readers(
    path: Path, content: bytes, channels: int, value_range: Range | None
) -> Iterable[Callable[[], Tensor]]:
    """All ways to read an image that don't open it with Pillow first: from the file, and from its bytes."""
    yield lambda: file_pixels(path, channels, value_range)
    yield lambda: content_pixels(content, str(path), channels, value_range)


def pixels(image: Any, channels: int, value_range: Range | None) -> Tensor:
    """The pixels of an opened image, or of a file opened by `open_image`."""
    return pixels_of(open_image(image) if isinstance(image, Path) else image, channels, value_range)


def size_by_header(path: Path) -> tuple[int, int]:
    """Width and height of the upright image."""
    with open_header(path) as image:
        return upright_size(image)
