"""Measurements of all images of a dataset, in one pass that also fills the cache of the image scan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ftkit.data.images import UnreadableImage, load_upright
from ftkit.data.scan.parallel import scan_in_parallel
from ftkit.data.scan.scan_cache import TOGETHER, CachedResult, ScanCache, file_key, open_scan_cache
from ftkit.data.scan.scan_progress import Notify, Progress
from ftkit.data.scan.scan_rows import ScanRows, choose_rows
from ftkit.data.scan.scan_table import ScanResult, ScanTable
from ftkit.data_quality.dataset_request import LoadedData
from ftkit.data_quality.image_measures import LUMA, Measures, measure_file, measure_image
from ftkit.errors import FtkitError
from ftkit.parts.dataset import Split
from ftkit.plugin_errors import is_unreadable_image

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class MeasuredSplits:
    """The images of a dataset, a row for each in the order of `LoadedData.samples`.

    Attributes:
        data: The dataset.
        scan: Errors, warnings, digests and perceptual hashes by row.
        readable: Which images could be read, bool `(n,)`; the other columns are 0 for those that couldn't.
        modes, kinds: The modes and formats that occur; `mode`, `kind` and `orientation` have one number per row.
        sizes: Width, height and bytes, `(n, 3)`.
        means, squares: See `Measures`, `(n, 3)`.
        contrast: `(n,)`.
    """

    data: LoadedData
    scan: ScanTable
    readable: NDArray[np.bool_]
    modes: tuple[str, ...]
    kinds: tuple[str, ...]
    mode: NDArray[np.uint8]
    kind: NDArray[np.uint8]
    orientation: NDArray[np.uint8]
    profile: NDArray[np.uint8]
    sizes: Integers
    means: Floats
    squares: Floats
    contrast: Floats

    def __len__(self) -> int:
        return len(self.readable)

    @property
    def brightness(self) -> Floats:
        """Mean grey level from 0 to 1, `(n,)`."""
        found: Floats = (self.means @ LUMA).astype(np.float32)
        return found


def measure_splits(data: LoadedData, notify: Notify | None = None) -> MeasuredSplits:
    """Read and measure each image of a dataset once.

    Files are read in all cores; other images in order, without threads, since a dataset's reader may not support them.

    Args:
        notify: Called with a progress note every few seconds.
    """
    rows, cache, columns = choose_rows(data.splits, "full", 0), open_scan_cache(), _Columns(data.count)
    progress = Progress("read {}", data.count, notify)
    fresh: list[tuple[bytes | None, CachedResult]] = []
    for row, (key, (result, measures)) in _results(data, rows):
        columns.put(row, result, measures)
        if key is not None:
            fresh.append((key, CachedResult(True, result)))
        if len(fresh) >= TOGETHER:
            _save(cache, fresh)
        progress.step()
    _save(cache, fresh)
    cache.trim()
    return columns.measured(data)


def _results(
    data: LoadedData, rows: ScanRows
) -> Iterator[tuple[int, tuple[bytes | None, tuple[ScanResult, Measures | None]]]]:
    chosen = list(rows.chosen())
    yield from scan_in_parallel(_keyed, rows.files(chosen), len(chosen))
    if len(chosen) < len(rows):
        files = np.zeros(len(rows), dtype=np.bool_)
        files[chosen] = True
        for row, (_, split, index) in enumerate(data.samples()):
            if not files[row]:
                yield row, (None, _opened(split, index))


def _keyed(file: str) -> tuple[bytes | None, tuple[ScanResult, Measures | None]]:
    # The key first, so that a file that is replaced meanwhile isn't cached under its new key.
    return file_key(file), measure_file(file)


def _opened(split: Split, index: int) -> tuple[ScanResult, Measures | None]:
    try:
        return measure_image(load_upright(split.open(index)))
    except FtkitError as error:
        if not isinstance(error, UnreadableImage) and not is_unreadable_image(error):
            raise
        return ScanResult(error=error.message), None
    except Exception as error:  # PIL decodes lazily, and decoders raise any exception for damaged images.
        return ScanResult(error=f"can't be read: {error or type(error).__name__}"), None


def _save(cache: ScanCache, fresh: list[tuple[bytes | None, CachedResult]]) -> None:
    cache.save(fresh)
    fresh.clear()


class _Columns:
    """The columns of `MeasuredSplits` while they are filled."""

    def __init__(self, count: int) -> None:
        self._scan = ScanTable(count)
        self._readable = np.zeros(count, dtype=np.bool_)
        self._modes: dict[str, int] = {}
        self._kinds: dict[str, int] = {}
        self._codes = np.zeros((4, count), dtype=np.uint8)
        self._sizes = np.zeros((count, 3), dtype=np.int64)
        self._levels = np.zeros((count, 7), dtype=np.float32)

    def put(self, row: int, result: ScanResult, measures: Measures | None) -> None:
        self._scan.put(row, result)
        if measures is None:
            return
        mode = self._modes.setdefault(measures.mode, len(self._modes))
        kind = self._kinds.setdefault(measures.kind, len(self._kinds))
        self._readable[row] = True
        self._codes[:, row] = mode, kind, measures.orientation, measures.profile
        self._sizes[row] = measures.width, measures.height, measures.size
        self._levels[row] = (*measures.means, *measures.squares, measures.contrast)

    def measured(self, data: LoadedData) -> MeasuredSplits:
        mode, kind, orientation, profile = self._codes
        return MeasuredSplits(
            data=data,
            scan=self._scan,
            readable=self._readable,
            modes=tuple(self._modes),
            kinds=tuple(self._kinds),
            mode=mode,
            kind=kind,
            orientation=orientation,
            profile=profile,
            sizes=self._sizes,
            means=self._levels[:, :3],
            squares=self._levels[:, 3:6],
            contrast=self._levels[:, 6],
        )
