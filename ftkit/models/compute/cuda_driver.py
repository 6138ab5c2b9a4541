"""Whether there is a GPU with CUDA, asked of its driver: plans need it without importing torch."""

from __future__ import annotations

import ctypes
import re
from importlib.util import find_spec
from pathlib import Path

DRIVERS = ("libcuda.so.1", "nvcuda.dll")
"""The driver's library on Linux and on Windows."""

_BUILT_FOR = re.compile(r"^cuda\b.*?=\s*['\"](\d+)\.", re.MULTILINE)


def has_cuda() -> bool:
    """Whether torch can use a GPU with CUDA: torch is built for CUDA, and the driver is new enough and has a GPU.

    `CUDA_VISIBLE_DEVICES` is respected, as by torch.
    """
    major = _cuda_of_torch()
    driver = _driver() if major is not None else None
    if major is None or driver is None or driver.cuInit(0) != 0:
        return False
    count, version = ctypes.c_int(), ctypes.c_int()
    fine = driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and driver.cuDriverGetVersion(ctypes.byref(version)) == 0
    return fine and count.value > 0 and version.value // 1000 >= major


def _cuda_of_torch() -> int | None:
    """The major version of CUDA that torch is built for; None for none."""
    found = find_spec("torch")  # doesn't import it
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        try:
            version = _BUILT_FOR.search(Path(folder, "version.py").read_text(encoding="utf-8"))
        except OSError:
            continue
        if version is not None:
            return int(version[1])
    return None


def _driver() -> ctypes.CDLL | None:
    for name in DRIVERS:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
