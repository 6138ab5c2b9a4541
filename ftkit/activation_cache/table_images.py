"""The images whose activations the tables of a run hold, and the row of each image of its splits.

These are the images of a split. In a fold of cross-fitting they are all training images, in the order of the data, so
that all folds read the same tables: what one has computed, the others find.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ftkit.data.loading.loader import Batch, Pixels
from ftkit.data.scan.content_digests import ImageDigests, image_digests
from ftkit.parts.dataset import Split, SplitName, merge_subsets

if TYPE_CHECKING:
    from ftkit.training.session import Session


@dataclass(frozen=True)
class TableImages:
    """The images of a table, and those of a split among them.

    Attributes:
        split: The images of the table, a row each.
        pixels: Their decoded pixels, where they are kept.
        rows: The row of each image of the run's split, int64 `(n,)`, ascending; None where the two are the same.
    """

    split: Split
    pixels: Pixels | None
    digests: ImageDigests = field(repr=False)
    rows: Tensor | None = None

    def row(self, index: int) -> int:
        """The row of an image of the run's split."""
        return index if self.rows is None else int(self.rows[index])

    def rows_of(self, indices: Tensor) -> Tensor:
        """The rows of images of the run's split, int64 `(b,)`."""
        return indices if self.rows is None else self.rows[indices]

    def of_split(self, batch: Batch) -> Batch:
        """A batch with positions in the run's split in place of rows; all of its images must be of that split."""
        if self.rows is None:
            return batch
        return Batch(batch.images, batch.labels, torch.searchsorted(self.rows, batch.indices), batch.failures)


class RunImages:
    """The images of the tables of a run's training and validation split."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def of(self, name: SplitName) -> TableImages:
        """The images of the tables of a split."""
        return self._found[name]

    @cached_property
    def _found(self) -> Mapping[SplitName, TableImages]:
        session = self._session
        train, val = session.split("train"), session.split("val")
        names: tuple[SplitName, ...] = ("train", "val")
        if session.plan.config.fold is None or train.sources()[0] is not val.sources()[0]:
            return {n: TableImages(session.split(n), session.pixels(n), session.image_digests(n)) for n in names}
        every = merge_subsets(train, val)
        digests, pixels = image_digests(every), self._pixels(every)
        return {name: TableImages(every, pixels, digests, _rows(session.split(name), every)) for name in names}

    def _pixels(self, every: Split) -> Pixels | None:
        parts = [(self._session.split(name), self._session.pixels(name)) for name in ("train", "val")]
        places: dict[int, tuple[Pixels, int]] = {}
        for split, pixels in parts:
            if pixels is None:
                return None
            places |= {place: (pixels, index) for index, place in enumerate(split.sources()[1])}
        return partial(_read, [places[place] for place in every.sources()[1]])


def _read(places: list[tuple[Pixels, int]], position: int, channels: int) -> Tensor:
    pixels, index = places[position]
    return pixels(index, channels)


def _rows(split: Split, every: Split) -> Tensor:
    return torch.searchsorted(torch.tensor(every.sources()[1]), torch.tensor(split.sources()[1]))
