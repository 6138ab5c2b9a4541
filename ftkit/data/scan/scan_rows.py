"""Which image files of the splits are scanned: all, a sample, or none."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from random import Random
from typing import Literal

from ftkit.data.images import SampleFiles
from ftkit.errors import plural
from ftkit.parts.dataset import SplitName, Splits

Scan = Literal["off", "sample", "full"]

SAMPLE = 10_000
"""Files of each split that `sample` scans."""


class ScanRows:
    """The samples of all splits, numbered as rows; some of them are scanned.

    Args:
        files: File of each sample, by split; the rows are in this order.
        chosen: Ascending rows that are scanned, by split.
        count: Number of samples that are files.

    Attributes:
        scanned: Number of files that are scanned.
        unchecked: Number of files that aren't.
    """

    def __init__(self, files: Mapping[SplitName, SampleFiles], chosen: Sequence[Sequence[int]], count: int) -> None:
        self._files, self._names, self._chosen = files, tuple(files), chosen
        self._starts = [0, *accumulate(map(len, files.values()))]
        self.scanned = sum(map(len, chosen))
        self.unchecked = count - self.scanned

    def __len__(self) -> int:
        return self._starts[-1]

    def chosen(self) -> Iterator[int]:
        """The rows that are scanned, ascending."""
        return chain.from_iterable(self._chosen)

    def files(self, rows: Iterable[int]) -> Iterator[tuple[int, str]]:
        """Row and path of each of some rows that are files."""
        return ((row, self.place(row)[1]) for row in rows)

    def of_split(self, name: SplitName) -> tuple[slice, SampleFiles]:
        """The rows of a split, and the file of each."""
        number = self._names.index(name)
        return slice(self._starts[number], self._starts[number + 1]), self._files[name]

    def place(self, row: int) -> tuple[SplitName, str]:
        """The split and the file of a row."""
        number = bisect_right(self._starts, row) - 1
        name = self._names[number]
        file = self._files[name][row - self._starts[number]]
        assert file is not None, "only rows of files are scanned"
        return name, file

    def notes(self) -> Iterator[str]:
        """A note if files aren't scanned."""
        if not self.unchecked:
            return
        read = f"{self.scanned:,} of {plural(self.scanned + self.unchecked, 'image')}, chosen at random, were read"
        yield (
            f"scan: {read if self.scanned else 'no image was read'}; {self.unchecked:,} aren't checked for unreadable "
            "files, wrong extensions, value ranges and duplicates"
        )


def choose_rows(splits: Splits, scan: Scan, seed: int) -> ScanRows:
    """The rows of the splits; the files that `scan` selects are scanned.

    Args:
        seed: Chooses the sample.
    """
    files: dict[SplitName, SampleFiles] = {name: SampleFiles(split) for name, split in splits.present()}
    chosen: list[Sequence[int]] = []
    start = count = 0
    for some in files.values():
        rows = range(start, start + len(some))
        found = rows if some.all_files else [row for row in rows if some[row - start] is not None]
        count += len(found)
        if scan == "sample" and len(found) > SAMPLE:
            found = sorted(Random(seed).sample(found, SAMPLE))
        chosen.append(found if scan != "off" else ())
        start += len(some)
    return ScanRows(files, chosen, count)
