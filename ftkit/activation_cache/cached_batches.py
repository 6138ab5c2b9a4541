"""Batches of cached activations in place of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ftkit.activation_cache.cached_augmentations import UNAUGMENTED
from ftkit.activation_cache.cutting.cut import Cut
from ftkit.activation_cache.table import DeviceTables, Rows
from ftkit.data.loading.loader import Batch, split_targets
from ftkit.data.loading.order import Key
from ftkit.data.loading.read_failures import ReadFailure
from ftkit.parts.dataset import SplitName

if TYPE_CHECKING:
    from ftkit.activation_cache.run_cache import RunCache


class CachedBatches:
    """Batches of activations in the order of a sampler; missing activations are computed first.

    Attributes:
        batch_sampler: Yields lists of keys.

    Args:
        variants: Cached variants of each image; epoch and draw of a key select one.
    """

    def __init__(self, cache: RunCache, cut: Cut, split: SplitName, sampler: Any, variants: int) -> None:
        self._cache, self._cut, self._split = cache, cut, split
        self.batch_sampler = sampler
        self._variants = variants
        self._images = cache.images(split)
        self._labels = split_targets(cache.session.split(split))
        self._device_tables = DeviceTables(cache.session.device)

    def __iter__(self) -> Iterator[Batch]:
        every = list(self.batch_sampler)
        # All processes fill the same tables, whichever variants their own images need.
        variants = self.batch_sampler.variants(self._variants) if self._variants > 1 else {UNAUGMENTED}
        tables = self._cache.tables(self._cut, self._split, variants)
        if tables is None:
            lists = [[(self._variant(key), self._images.row(key[1]), 0) for key in keys] for keys in every]
            yield from map(self._images.of_split, self._cache.compute_uncached(self._cut, self._split, lists))
            return
        failures, rows = self._cache.failures[self._split], self._device_tables.of(tables)
        for keys in every:
            yield self._batch(keys, rows, failures)

    def _variant(self, key: Key) -> int:
        epoch, _, draw = key
        return (epoch + draw) % self._variants

    def _batch(self, keys: Sequence[Key], tables: Mapping[int, Rows], failures: Mapping[int, ReadFailure]) -> Batch:
        row = self._images.row
        read = [key for key in keys if row(key[1]) not in failures] if failures else keys
        indices = torch.tensor([key[1] for key in read], dtype=torch.int64)
        places, variants = self._images.rows_of(indices), [self._variant(key) for key in read]
        if len(set(variants)) <= 1:
            # A batch may be empty, and the epoch may use other variants than the unaugmented one.
            rows = tables[variants[0] if variants else next(iter(tables))].take(places)
        else:
            rows = torch.stack([tables[variant].take(place) for variant, place in zip(variants, places, strict=True)])
        lost = tuple(failures[row(key[1])] for key in keys if row(key[1]) in failures) if failures else ()
        return Batch(rows, self._labels[indices], indices, lost)
