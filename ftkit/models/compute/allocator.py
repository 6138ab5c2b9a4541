"""The C library's allocator, set for passes of a network, which free and allocate the same memory over and over."""

from __future__ import annotations

import ctypes
import gc
import os
import resource

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -3, -4, -8
"""Parameters of glibc's `mallopt`."""
LARGEST = 32 << 20
"""Bytes; the largest `MMAP_THRESHOLD` that glibc accepts."""
NEVER = 2**31 - 1
SHARE = 0.1
"""Part of an epoch's processor time from which blocks above `LARGEST` are kept."""
ENVIRONMENT = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Let glibc keep blocks that are freed, in this process and in worker processes started later.

    By default it returns blocks above 128 kB to the kernel, which clears all of their pages again for the next step:
    40 % of the processor time of EfficientNet-Lite0 on a CPU. Here blocks of up to 32 MB stay, and larger ones wherever
    the freed memory beside them has room. All threads share this memory, since a thread's own has room for 64 MB; this
    needs a call before torch is imported. Settings of the environment and other C libraries are left as they are.
    """
    library = _settable()
    if library is not None:
        library.mallopt(MMAP_THRESHOLD, LARGEST)
        library.mallopt(TRIM_THRESHOLD, NEVER)
        library.mallopt(ARENA_MAX, 1)


class PageFaults:
    """Page faults of this process since the object was made."""

    def __init__(self) -> None:
        self._before = resource.getrusage(resource.RUSAGE_SELF)

    def kernel_share(self) -> float:
        """The part of the processor time, 0 to 1, that the kernel took for pages returned to it and taken again.

        First use of memory, by which the process's peak grows, is left out: it costs a fault per page in any case.
        """
        before, now = self._before, resource.getrusage(resource.RUSAGE_SELF)
        kernel = now.ru_stime - before.ru_stime
        spent = kernel + now.ru_utime - before.ru_utime
        faulted = (now.ru_minflt - before.ru_minflt) * resource.getpagesize()
        first_used = 1024 * (now.ru_maxrss - before.ru_maxrss)
        return kernel / spent * (1 - first_used / faulted) if spent and faulted > first_used else 0.0


def keep_larger_blocks(faults: PageFaults, available: int) -> None:
    """Let glibc keep freed blocks of any size, if returning them to the kernel takes more than a tenth of the time.

    Their gaps take memory: 1.2 times that of a plain loop with ResNet-18, which spends 4 % of its time in the kernel
    without this, and 1.07 times with EfficientNet-Lite0, which spends 18 % there. So it is left as it is where little
    time is lost, and where less memory is available than this process has taken at its peak. Called after an epoch,
    whose blocks then lie close together.

    Args:
        faults: Those of the epoch.
        available: Bytes available to this process.
    """
    library = _settable()
    if library is None or faults.kernel_share() < SHARE:
        return
    if available > 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
        library.mallopt(MMAP_MAX, 0)


def give_back_freed_memory() -> None:
    """Let glibc return the memory that it has kept; what follows a training needs less, and of other sizes."""
    library = _glibc()
    if library is not None:
        gc.collect()
        library.malloc_trim(0)


def _settable() -> ctypes.CDLL | None:
    """glibc; None where the environment sets its allocator."""
    return None if any(os.environ.get(name) for name in ENVIRONMENT) else _glibc()


def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
