"""A disk that fails at one of its operations, as full, broken and read-only ones do."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from safetensors.torch import save_file

from ftkit.files import durable

KINDS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES)


class Disk:
    """Counts what is written below a folder; the operation number `fails_at`, counted from 1, fails."""

    def __init__(self, below: Path, fails_at: int = 0, number: int = errno.ENOSPC) -> None:
        self.below = str(below.absolute())
        self.fails_at = fails_at
        self.number = number
        self.done: list[str] = []

    def write(self, path: Any, what: str) -> None:
        try:
            place = str(Path(os.fspath(path)).absolute())
        except TypeError:  # a descriptor: it was let through when it was opened
            return
        if not place.startswith(self.below):
            return
        self.done.append(f"{what} {place.removeprefix(self.below)}")
        if len(self.done) == self.fails_at:
            raise OSError(self.number, os.strerror(self.number), place)


@contextmanager
def failing(disk: Disk) -> Iterator[Disk]:
    """Everything that writes, in Python and below it, goes by this disk."""

    def checked(call: Callable[..., Any], what: str) -> Callable[..., Any]:
        def run(path: Any, *args: Any, **kwargs: Any) -> Any:
            disk.write(path, what)
            return call(path, *args, **kwargs)

        return run

    def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if set(mode) & set("wax+"):
            disk.write(path, "open")
        return really_open(path, mode, *args, **kwargs)

    def saved(tensors: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        """The error that safetensors makes of the system's."""
        try:
            disk.write(path, "save")
        except OSError as error:
            raise SafetensorError(f"Error while serializing: I/O error: (os error {error.errno})") from error
        save_file(tensors, path, *args, **kwargs)

    really_open = io.open
    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename", "replace", "mkdir"):
            patch.setattr(os, name, checked(getattr(os, name), name))
        patch.setattr(io, "open", opened)
        patch.setattr("builtins.open", opened)
        patch.setattr("ftkit.files.durable.save_file", saved)
        patch.setattr(durable, "_fsync", checked(durable._fsync, "fsync"))
        yield disk
