"""Batches of cached activations in place of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ftkit.activation_cache.cached_augmentations import UNAUGMENTED
from ftkit.activation_cache.cut import Cut
from ftkit.activation_cache.table import Table
from ftkit.data.loading.loader import Batch, ReadFailure
from ftkit.data.loading.order import Key
from ftkit.parts.dataset import SplitName

if TYPE_CHECKING:
    from ftkit.activation_cache.run_cache import RunCache


class CachedBatches:
    """Batches of rows in place of images, in the order of a sampler; a table is filled where it isn't yet.

    Attributes:
        batch_sampler: Gives lists of keys.
        views: An image's key, epoch and draw, says which of so many views it is.
    """

    def __init__(self, cache: RunCache, cut: Cut, split: SplitName, sampler: Any, variants: int) -> None:
        self._cache, self._cut, self._split = cache, cut, split
        self.batch_sampler = sampler
        self._variants = variants
        self._labels = torch.tensor(cache.session.split(split).labels, dtype=torch.int64)

    def __iter__(self) -> Iterator[Batch]:
        every = list(self.batch_sampler)
        # All processes need the same views, whichever of them their own images are of.
        variants = self.batch_sampler.variants(self._variants) if self._variants > 1 else {UNAUGMENTED}
        tables = self._cache.tables(self._cut, self._split, variants)
        if tables is None:
            lists = [[((key[0] + key[2]) % self._variants, key[1], 0) for key in keys] for keys in every]
            yield from self._cache.computed(self._cut, self._split, lists)
            return
        faults = self._cache.faults[self._split]
        for keys in every:
            yield self._batch(keys, tables, faults)

    def _batch(self, keys: Sequence[Key], tables: Mapping[int, Table], faults: Mapping[int, ReadFailure]) -> Batch:
        whole = [key for key in keys if key[1] not in faults] if faults else keys
        indices = torch.tensor([key[1] for key in whole], dtype=torch.int64)
        variants = [(key[0] + key[2]) % self._variants for key in whole]
        if len(set(variants)) <= 1:
            # A batch may be empty, and the epoch may use other views than the plain one.
            rows = tables[variants[0] if variants else next(iter(tables))].take(indices)
        else:
            rows = torch.stack([tables[variant].take(index) for variant, index in zip(variants, indices, strict=True)])
        lost = tuple(faults[key[1]] for key in keys if key[1] in faults) if faults else ()
        return Batch(rows, self._labels[indices], indices, lost)
