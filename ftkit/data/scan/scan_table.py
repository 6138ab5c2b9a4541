"""The results of an image scan: of one file, and of many in arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ftkit.files.file_identity import DIGEST_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HASH_BYTES = 16
"""Bytes of a perceptual hash."""


class ScanResult(NamedTuple):
    """The result of scanning a file; a tuple, which is made in a quarter of the time of a frozen dataclass.

    Attributes:
        error: Why it can't be read; None if it can.
        warning: A problem of a file that can be read, such as a wrong extension.
        content: Digest of the file's bytes; None if it can't be read.
        perceptual_hash: Similar for copies of an image; None if the image has too few features.
        extremes: Minimum, maximum, and whether all values are integers, of an image of more than 8 bits that doesn't
            declare the values of black and white; None for other images.
    """

    error: str | None = None
    warning: str | None = None
    content: bytes | None = None
    perceptual_hash: bytes | None = None
    extremes: tuple[float, float, bool] | None = None


@dataclass
class ScanTable:
    """Results of many files, a row for each: 34 bytes, and Python objects only for problems and extremes.

    Attributes:
        rows: Number of rows.
        errors, warnings, extremes: As in `ScanResult`, by row, for the rows that have one.
    """

    rows: int
    errors: dict[int, str] = field(default_factory=dict)
    warnings: dict[int, str] = field(default_factory=dict)
    extremes: dict[int, tuple[float, float, bool]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._contents, self._hashes = bytearray(self.rows * DIGEST_BYTES), bytearray(self.rows * HASH_BYTES)
        self._has_content, self._has_hash = bytearray(self.rows), bytearray(self.rows)

    def put(self, row: int, result: ScanResult) -> None:
        """Store the result of a row, once."""
        if result.content is not None:
            self._contents[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES] = result.content
            self._has_content[row] = 1
        if result.perceptual_hash is not None:
            self._hashes[row * HASH_BYTES : (row + 1) * HASH_BYTES] = result.perceptual_hash
            self._has_hash[row] = 1
        for found, value in ((self.errors, result.error), (self.warnings, result.warning)):
            if value is not None:
                found[row] = value
        if result.extremes is not None:
            self.extremes[row] = result.extremes

    def contents(self, rows: slice) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """The content digests of some rows, `(n, 2)`, and which rows have one."""
        return _columns(self._contents, self._has_content, rows)

    def hashes(self, rows: slice) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """The perceptual hashes of some rows, `(n, 2)`, and which rows have one."""
        return _columns(self._hashes, self._has_hash, rows)


def _columns(values: bytearray, known: bytearray, rows: slice) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    import numpy as np

    return np.frombuffer(values, dtype=np.uint64).reshape(-1, 2)[rows], np.frombuffer(known, dtype=np.bool_)[rows]
