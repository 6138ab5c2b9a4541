"""Files and folders written whole or not at all, whenever the program or the machine stops."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ftkit.errors import FtkitError
from ftkit.files.folder_swap import previous_folder


def replace_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Make the folder `target` what `write` puts into the empty folder that it is given.

    `write` works on a folder beside the target, which takes the target's name only after all of it is on
    disk. The old target lives on as `folder_swap.previous(target)` until then, so at each instant one of the two is
    whole. What an interrupted call left behind is cleared by the next.

    Raises:
        FtkitError: The disk is full, read-only or closed to us; the target is as it was.
    """
    temporary = target.with_name(f".tmp-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        temporary.mkdir()
        write(temporary)
        fsync_tree(temporary)
        _swap(temporary, target)
    except OSError as error:
        raise _refused(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_file(target: Path, content: bytes) -> None:
    """Make `content` the file's whole content, on disk when this returns.

    Raises:
        FtkitError: As `replace_folder`; the file is as it was.
    """
    temporary = target.with_name(f".tmp-{target.name}")
    try:
        temporary.write_bytes(content)
        _fsync(temporary)
        temporary.replace(target)
        _fsync(target.parent)
    except OSError as error:
        raise _refused(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def fsync_tree(folder: Path) -> None:
    """Have all files below a folder, and the folder itself, on disk before anything points at them."""
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            _fsync(Path(place, name))
        _fsync(Path(place))


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file; tensors may lie on any device, in any layout, and share memory.

    Raises:
        OSError: As `open` would; safetensors' own error hides the number that tells a full disk.
    """
    # The format refuses shared and strided storage; a copy of each tensor has neither.
    copies = {name: _copied(tensor) for name, tensor in tensors.items()}
    try:
        save_file(copies, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def has_same_tensors(path: Path, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a safetensors file has exactly these tensors, bit for bit.

    Raises:
        OSError, SafetensorError: It can't be read.
    """
    with safe_open(path, "pt") as file:
        return set(file.keys()) == set(tensors) and all(
            _alike(file.get_tensor(name), tensor.detach().cpu()) for name, tensor in tensors.items()
        )


def _alike(one: Tensor, other: Tensor) -> bool:
    """As whole numbers, to which 0 and -0 differ and what is no number equals itself."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}.get(one.itemsize, torch.uint8)
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and torch.equal(one.reshape(-1).view(bits), other.reshape(-1).view(bits))


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _swap(temporary: Path, target: Path) -> None:
    old = previous_folder(target)
    if target.exists():
        _remove(old)
        target.rename(old)
    try:
        temporary.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    _fsync(target.parent)
    _remove(old)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refused(target: Path, error: OSError) -> FtkitError:
    reason = error.strerror or str(error)
    return FtkitError(
        f"{target} can't be written: {reason}", f"make {target.parent} writable, with room, and try again"
    )
