"""Groups of images that are copies of each other: identical files, and images with close perceptual hashes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ftkit.data.scan.close_hashes import close_pairs
from ftkit.data.scan.duplicates import first_equal
from ftkit.data.scan.image_scan import scan_rows
from ftkit.data.scan.scan_cache import open_scan_cache
from ftkit.data.scan.scan_progress import Notify
from ftkit.data.scan.scan_rows import choose_rows
from ftkit.data.scan.scan_table import ScanTable
from ftkit.data_quality.dataset_request import LoadedData

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class DuplicateGroups:
    """Which images are copies of each other; each group is numbered by its first row.

    Attributes:
        exact: The group of identical images of each row, `(n,)`.
        near: The group of each row, `(n,)`, where near duplicates are in one group too; of pairs, pairs of pairs and
            so on, so that two images of a large group may differ more.
    """

    exact: Integers
    near: Integers

    @classmethod
    def of(cls, scan: ScanTable) -> DuplicateGroups:
        """The groups of scanned images.

        The hash is the difference hash of 128 bits that the image scan computes and caches, and pairs of at most
        `close_hashes.MAX_DISTANCE` bits are found by sorting parts of the hashes.
        """
        everything = slice(0, scan.rows)
        exact = first_equal(*scan.contents(everything))
        pairs = [(one, two) for one, two, _ in close_pairs(*scan.hashes(everything))]
        ones = np.concatenate([np.arange(scan.rows), *(one for one, _ in pairs)])
        twos = np.concatenate([exact, *(two for _, two in pairs)])
        links = coo_array((np.ones(len(ones), dtype=np.bool_), (ones, twos)), shape=(scan.rows, scan.rows))
        _, numbers = connected_components(links, directed=False)
        _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
        return cls(exact, first[inverse])


def scan_data(data: LoadedData, notify: Notify | None = None) -> ScanTable:
    """The image scan of all files of a dataset; only files that aren't cached are read.

    Args:
        notify: Called with a progress note every few seconds.
    """
    return scan_rows(choose_rows(data.splits, "full", 0), open_scan_cache(), notify)


def members(groups: Integers) -> list[Integers]:
    """The rows of each group of two or more, ascending; groups in the order of their first rows."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    return [rows for rows in np.split(order, starts[1:]) if len(rows) > 1] if len(order) else []
