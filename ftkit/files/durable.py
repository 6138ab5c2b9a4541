"""Atomic, durable writes of files and folders: complete or not at all, even after a crash or a power failure."""

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
    """Replace the folder `target` by what `write` puts into an empty folder.

    `write` gets a temporary folder beside the target, which is renamed to `target` once all of it is on disk. Until
    then the old target is kept as `previous_folder(target)`, so that one of the two is complete at any time. The next
    call removes what an interrupted call has left behind.

    Raises:
        FtkitError: The disk is full or can't be written; the target is unchanged.
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
        raise _write_error(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_file(target: Path, content: bytes) -> None:
    """Replace the content of a file; it is on disk when this returns.

    Raises:
        FtkitError: The disk is full or can't be written; the file is unchanged.
    """
    temporary = target.with_name(f".tmp-{target.name}")
    try:
        temporary.write_bytes(content)
        _fsync(temporary)
        temporary.replace(target)
        _fsync(target.parent)
    except OSError as error:
        raise _write_error(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def fsync_tree(folder: Path) -> None:
    """Flush a folder and all files below it to disk."""
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            _fsync(Path(place, name))
        _fsync(Path(place))


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file. Tensors may be on any device, in any memory layout, and share memory.

    Raises:
        OSError: As from `open`; safetensors' own error has no `errno`, so a full disk couldn't be recognised.
    """
    # safetensors refuses shared and strided storage; copies have neither.
    copies = {name: _copy(tensor) for name, tensor in tensors.items()}
    try:
        # Newer versions of safetensors make files that their owner alone can read, whatever the umask is.
        path.touch()
        mode = path.stat().st_mode
        save_file(copies, path)
        path.chmod(mode)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def has_same_tensors(path: Path, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a safetensors file holds exactly these tensors, bit for bit.

    Raises:
        OSError, SafetensorError: The file can't be read.
    """
    with safe_open(path, "pt") as file:
        return set(file.keys()) == set(tensors) and all(
            _same_bits(file.get_tensor(name), tensor.detach().cpu()) for name, tensor in tensors.items()
        )


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Compare as integers: 0 and -0 differ, and NaN equals NaN."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}.get(one.itemsize, torch.uint8)
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and torch.equal(one.reshape(-1).view(bits), other.reshape(-1).view(bits))


def _copy(tensor: Tensor) -> Tensor:
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


def _write_error(target: Path, error: OSError) -> FtkitError:
    reason = error.strerror or str(error)
    return FtkitError(
        f"{target} can't be written: {reason}", f"make {target.parent} writable, with room, and try again"
    )
