"""Reading a run's own safetensors files, with an error that names the file and the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ftkit.errors import RequestError

RUN_REMEDY = "put it back as it was, or train the run again"


def load_tensors(path: Path, remedy: str = RUN_REMEDY) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU.

    Raises:
        RequestError: The file is missing or damaged.
    """
    with _readable(path, remedy):
        return load_file(path)


@contextmanager
def open_tensors(path: Path, remedy: str = RUN_REMEDY) -> Iterator[Any]:
    """A file whose tensors are read one at a time, by `get_tensor(name)`.

    Raises:
        RequestError: The file is missing or damaged, or lacks a tensor.
    """
    with _readable(path, remedy), safe_open(path, "pt") as file:
        yield file


@contextmanager
def _readable(path: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise RequestError(f"{path} is missing", remedy) from None
    except (OSError, SafetensorError) as error:
        raise RequestError(f"{path} can't be read: {error}", remedy) from None
