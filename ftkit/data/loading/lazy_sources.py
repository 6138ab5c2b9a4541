"""Images that are in no files of their own, opened by a copy of what opens them for each thread and each process.

Such data is often read through a connection that is made at the first image: a database, an HDF5 file. Connections can
be used neither by other threads nor by a process that was forked since.
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
"""Lists of so many numbers or texts are data too."""


class PerThreadOpener:
    """Calls a copy of its own of `opens` in each thread of each process; `opens` itself is never called.

    A copy is what another process would get, but for its data (arrays, tensors, bytes, long lists of numbers or texts),
    which all copies share. What can't be copied is called by one thread at a time.
    """

    def __init__(self, opens: Callable[[int], Any]) -> None:
        self.opens = opens
        self._begin()

    def __call__(self, index: int) -> Any:
        if not self._can_be_copied:
            with self._lock:
                return self.opens(index)
        own = self._own
        if getattr(own, "process", None) != os.getpid():
            # A copy of the process that this one was forked from is kept: to let go of it may end its connection.
            own.inherited = getattr(own, "opens", None)
            own.opens = self._copied()
            if own.opens is None:
                return self(index)
            own.process = os.getpid()
        return own.opens(index)

    def _begin(self) -> None:
        self._own = threading.local()
        self._lock = threading.Lock()
        self._can_be_copied = True

    def _copied(self) -> Callable[[int], Any] | None:
        try:
            made: Callable[[int], Any] = shared_copy(self.opens)
        except Exception:
            # It can't be sent to another process either, which the contract asks for; with threads it still works.
            self._can_be_copied = False
            return None
        return made

    def __getstate__(self) -> Any:
        # Not the object itself, whose state would be lost where it counts as false.
        return (self.opens,)

    def __setstate__(self, state: Any) -> None:
        (self.opens,) = state
        self._begin()


def shared_copy(value: Any) -> Any:
    """A copy of all but the data in a value, which is shared, if the value is one that could be pickled.

    Nothing is unpickled: pickling finds out whether it can be sent elsewhere, and which data is in it.

    Raises:
        Exception: It can't be pickled; which kind depends on what is in it.
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
    """The types of large data of libraries that are imported anyway."""
    modules = [(sys.modules.get(name), kinds) for name, kinds in _LIBRARIES.items()]
    return tuple(getattr(module, kind) for module, kinds in modules if module is not None for kind in kinds)
