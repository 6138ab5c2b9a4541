"""A copy of a dataset's opener for each thread and each process, for samples that are not image files.

Such data is often read through a connection that is opened for the first image, such as a database or an HDF5 file. A
connection can't be shared with other threads, nor with a process that is forked later.
"""

from __future__ import annotations

import array
import copy
import io
import mmap
import os
import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

_DATA = (bytes, bytearray, memoryview, mmap.mmap, array.array)
_LIBRARIES = {
    "numpy": ("ndarray",),
    "torch": ("Tensor",),
    "pyarrow": ("Buffer", "ChunkedArray", "RecordBatch", "Table"),
}
LONG = 100
"""Lists of at least this many numbers or strings are shared as data."""


class PerThreadOpener:
    """Calls a separate copy of `opens` in each thread of each process; `opens` itself is never called.

    A copy is what another process would get by pickling, except that all copies share the data (arrays, tensors, bytes,
    long lists of numbers or strings). An opener that can't be copied is called by one thread at a time.
    """

    def __init__(self, opens: Callable[[int], Any]) -> None:
        self.opens = opens
        self._reset()

    def __call__(self, index: int) -> Any:
        if not self._can_be_copied:
            with self._lock:
                return self.opens(index)
        own = self._own
        if getattr(own, "process", None) != os.getpid():
            # The copy of the parent process is kept: deleting it here might close the parent's connection.
            own.inherited = getattr(own, "opens", None)
            own.opens = self._copied()
            if own.opens is None:
                return self(index)
            own.process = os.getpid()
        return own.opens(index)

    def _reset(self) -> None:
        self._own = threading.local()
        self._lock = threading.Lock()
        self._can_be_copied = True

    def _copied(self) -> Callable[[int], Any] | None:
        try:
            made: Callable[[int], Any] = shared_copy(self.opens)
        except Exception:
            # It can't be pickled, as the interface requires; it still works with threads.
            self._can_be_copied = False
            return None
        return made

    def __getstate__(self) -> Any:
        # A tuple, since a state that is falsy isn't restored.
        return (self.opens,)

    def __setstate__(self, state: Any) -> None:
        (self.opens,) = state
        self._reset()


def shared_copy(value: Any) -> Any:
    """A deep copy of a picklable value that shares its data.

    Pickling is only a trial run: it checks that the value can be sent to a process, and finds the data in it.

    Raises:
        Exception: The value can't be pickled.
    """
    shared: dict[int, Any] = {}
    kinds = (*_DATA, *_library_kinds())

    class Search(pickle.Pickler):
        def persistent_id(self, each: Any) -> int | None:
            if isinstance(each, kinds) or (isinstance(each, list | tuple) and _is_data(each)):
                shared[id(each)] = each
                return id(each)
            return None

    Search(io.BytesIO(), pickle.HIGHEST_PROTOCOL).dump(value)
    return copy.deepcopy(value, shared)


def _is_data(values: list[Any] | tuple[Any, ...]) -> bool:
    return len(values) >= LONG and all(isinstance(each, int | float | str | bytes) for each in values[:3])


def _library_kinds() -> tuple[type, ...]:
    """Data types of those libraries that are imported already."""
    modules = [(sys.modules.get(name), kinds) for name, kinds in _LIBRARIES.items()]
    return tuple(getattr(module, kind) for module, kinds in modules if module is not None for kind in kinds)
