"""Values of a frozen beginning outside a training: for models that are evaluated, and for the advice before a run.

They are taken from the tables that runs keep, and what is lacking there is computed and kept for whoever comes next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ftkit.activation_cache.cached_augmentations import UNAUGMENTED
from ftkit.activation_cache.cut import Cut, CutFinder, NoCutError
from ftkit.activation_cache.prefix import compute_rows, fast_prefix
from ftkit.activation_cache.table import Table
from ftkit.activation_cache.table_keys import TableKeys, cached_prefixes, open_checked_table, table_key
from ftkit.config.schema import Cache
from ftkit.data.loading.loader import Batch, Samples, raise_failures
from ftkit.data.loading.order import Key
from ftkit.data.scan.content_digests import ImageDigests, image_digests
from ftkit.errors import plural
from ftkit.files.cache_folder import CacheStore, activation_folder
from ftkit.models.bundle import Loaded
from ftkit.models.compute.devices import Compute
from ftkit.models.parameter_groups import set_trainable
from ftkit.parts.backbone import LayerGroup
from ftkit.parts.dataset import Split
from ftkit.transforms.preprocessing import Preprocessing

LARGEST = 4
"""Bytes that a value may take for each of its image's: to write larger ones takes as long as to compute them, and they
fill the folder. Where a run has kept them, they are used all the same."""

Note = Callable[[str], None]


def ignore_note(line: str) -> None:
    """For those who don't listen."""


def store_of(config: Cache) -> CacheStore | None:
    """The folder of tables of a config; None where it wants none used."""
    return CacheStore(activation_folder(config.dir), config.limit) if config.use else None


@dataclass(frozen=True)
class FrozenPrefix:
    """What of a network is computed once for an image.

    Attributes:
        cut: What comes after it.
        key: What it is known by, as `TableKeys` has it.
        backbone: The network's name, for people.
    """

    cut_finder: CutFinder
    cut: Cut
    key: str
    compute: Compute
    preprocessing: Preprocessing
    backbone: str


@dataclass(frozen=True)
class CachedSplit:
    """A split's values after a beginning, all of them in a table.

    Attributes:
        cut: Its `eval_network` is what comes after it.
    """

    cut: Cut
    table: Table
    split: Split

    def read(self, key: Key) -> tuple[Tensor, tuple[int, int]]:
        """A sample's value with its label and index."""
        index = key[1]
        return self.table.take(torch.tensor(index)), (self.split.labels[index], index)

    def batches(self, size: int) -> Iterator[Batch]:
        """All of them in order, so many at a time."""
        labels = torch.tensor(self.split.labels, dtype=torch.int64)
        for indices in torch.split(torch.arange(len(self.split)), size):
            yield Batch(self.table.take(indices), labels[indices], indices)


@contextmanager
def read_cached(
    prefix: FrozenPrefix | None, samples: Samples, store: CacheStore | None, tell: Note, threads: int | None = None
) -> Iterator[CachedSplit | None]:
    """A split's values after a beginning; those that aren't kept yet are, from now on.

    None where there is no beginning or store, the values are large and none are kept, or the folder can't be used.

    Args:
        samples: Of the split, as evaluation sees them.
        tell: Called with a line for people.
        threads: As in `engine.inference.stream.computed`.

    Raises:
        FtkitError: An image can't be read; the message names it.
    """
    if prefix is None or store is None:
        yield None
        return
    images = image_digests(samples.split)
    table = _opened(prefix, samples, images, store, tell)
    if table is None:
        yield None
        return
    try:
        kept = _fill(table, prefix, samples, images, threads)
        if kept:
            of = plural(len(samples), "image")
            tell(f"the cache has the activations after {prefix.cut.name} of {kept:,} of {of}")
        yield CachedSplit(prefix.cut, table, samples.split)
    finally:
        table.close()


def find_cached_prefix(loaded: Loaded, store: CacheStore | None) -> FrozenPrefix | None:
    """The longest beginning of a model that a table is of; None where none is."""
    kept = cached_prefixes(store) if store is not None else set()
    if not kept:
        return None
    preprocessing, compute = loaded.card.preprocessing, loaded.compute
    try:
        cut_finder = open_cut_finder(loaded.model, compute, preprocessing)
        keys = TableKeys(cut_finder, compute)
        places = {name for name, _ in kept if cut_finder.depth(name) >= 0}
        for name in sorted(places, key=cut_finder.depth, reverse=True):
            key = keys.prefix_key(name)
            if (name, key) in kept:
                return FrozenPrefix(
                    cut_finder, cut_finder.cut_at(name), key, compute, preprocessing, loaded.card.backbone.name
                )
    except NoCutError:
        # Runs of such a network aren't cached either, and say why.
        pass
    return None


def prefix_before_head(
    network: nn.Module, groups: Sequence[LayerGroup], compute: Compute, preprocessing: Preprocessing, backbone: str
) -> FrozenPrefix | None:
    """All of a network that is fixed while its head alone trains; None where that can't be told apart.

    Its parameters and modes are left as for that.
    """
    try:
        cut_finder = open_cut_finder(network, compute, preprocessing)
        cut = cut_finder.cut(set_trainable(network, groups, {groups[-1].name}))
    except NoCutError:
        return None
    return FrozenPrefix(
        cut_finder, cut, TableKeys(cut_finder, compute).prefix_key(cut.name), compute, preprocessing, backbone
    )


def open_cut_finder(network: nn.Module, compute: Compute, preprocessing: Preprocessing) -> CutFinder:
    """Cuts a network; what it tries its cuts on is always the same.

    Raises:
        NoCutError: The network can't be traced.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, preprocessing.channels, preprocessing.size, preprocessing.size, generator=generator)
    return CutFinder(network, compute.take(images), compute.autocast)


def _opened(
    prefix: FrozenPrefix, samples: Samples, images: ImageDigests, store: CacheStore, tell: Note
) -> Table | None:
    cut, preprocessing = prefix.cut, prefix.preprocessing
    key = table_key(prefix.key, images.digest, preprocessing)
    if not store.has(key) and cut.nbytes > LARGEST * preprocessing.channels * preprocessing.size**2:
        return None
    about = f"{prefix.backbone} after {cut.name}: {plural(len(samples), 'image')}"
    try:
        return open_checked_table(
            store, key, about, len(samples), cut, prefix.key, partial(_row, prefix, samples), tell
        )
    except OSError as error:
        tell(f"{store.folder}: {error.strerror or error}; what is frozen is computed anew")
        return None


def _row(prefix: FrozenPrefix, samples: Samples, index: int) -> Tensor | None:
    """A row as it is now; None where its image can't be read."""
    network = fast_prefix(prefix.cut_finder, [prefix.cut.name], prefix.compute, prefix.preprocessing)
    rows = compute_rows(network, prefix.compute, prefix.preprocessing, samples, [[(UNAUGMENTED, index, 0)]], 1)
    with closing(rows):
        values, _ = next(rows)
    return values[0] if values else None


def _fill(table: Table, prefix: FrozenPrefix, samples: Samples, images: ImageDigests, threads: int | None) -> int:
    """Compute what a table lacks; how many rows it had."""
    missing = table.missing()
    lists: list[list[Key]] = [[(UNAUGMENTED, index, 0) for index in table.rows_of(chunk)] for chunk in missing]
    network = fast_prefix(prefix.cut_finder, [prefix.cut.name], prefix.compute, prefix.preprocessing)
    rows = compute_rows(network, prefix.compute, prefix.preprocessing, samples, lists, threads)
    for chunk, (values, batch) in zip(missing, rows, strict=True):
        raise_failures(batch.failures)
        images.require_same(batch.indices.tolist())
        table.put(chunk, batch.indices.tolist(), values[0])
    return len(samples) - sum(map(len, lists))
