"""Cached activations outside a training: for evaluations, and for recommendations before a run.

They are read from the tables that runs have filled; missing rows are computed and stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ftkit.activation_cache.cached_augmentations import UNAUGMENTED
from ftkit.activation_cache.cutting.cut import Cut, NoCutError
from ftkit.activation_cache.cutting.finder import CutFinder
from ftkit.activation_cache.policy import is_worth_storing
from ftkit.activation_cache.prefix import compute_rows, fast_prefix
from ftkit.activation_cache.table import Table
from ftkit.activation_cache.table_keys import TableKeys, TableSpec, cached_prefixes, open_checked_table, table_key
from ftkit.config.schema import Cache
from ftkit.data.loading.loader import Batch, Samples, split_targets
from ftkit.data.loading.order import Key
from ftkit.data.loading.read_failures import raise_failures
from ftkit.data.scan.content_digests import ImageDigests, image_digests
from ftkit.errors import plural
from ftkit.files.cache_folder import CacheStore, activation_folder
from ftkit.models.bundle import Loaded
from ftkit.models.compute.devices import Compute
from ftkit.models.parameter_groups import set_trainable
from ftkit.parts.backbone import LayerGroup
from ftkit.parts.dataset import Split
from ftkit.parts.label_sets import Label
from ftkit.transforms.preprocessing import Preprocessing

Note = Callable[[str], None]
"""Receives one line for people."""


def ignore_note(line: str) -> None:
    """Drops notes."""


def store_of(config: Cache) -> CacheStore | None:
    """The folder of tables of a config; None where the cache is off."""
    return CacheStore(activation_folder(config.dir), config.limit) if config.use else None


@dataclass(frozen=True)
class FrozenPrefix:
    """The first layers of a network, whose activations are computed once per image.

    Attributes:
        cut: Its `eval_suffix` computes the outputs from the activations.
        key: The key that `TableKeys` returns.
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
    """The activations of all images of a split."""

    cut: Cut
    table: Table
    split: Split

    def read(self, key: Key) -> tuple[Tensor, tuple[Label, int]]:
        """The activations of an image, with its label and index."""
        index = key[1]
        return self.table.take(torch.tensor(index)), (self.split.labels[index], index)

    def batches(self, size: int) -> Iterator[Batch]:
        """All activations in the order of the split, in batches of `size`."""
        labels = split_targets(self.split)
        for indices in torch.split(torch.arange(len(self.split)), size):
            yield Batch(self.table.take(indices), labels[indices], indices)


@contextmanager
def read_cached(
    prefix: FrozenPrefix | None,
    samples: Samples,
    store: CacheStore | None,
    note: Note,
    threads: int | None = None,
    whole: bool = False,
) -> Iterator[CachedSplit | None]:
    """The activations of a split; missing ones are computed and stored.

    None without a prefix or a store, where the activations are large and none are stored, or where the folder can't be
    used.

    Args:
        samples: The split's samples, with the transform of evaluation.
        threads: See `inference.streaming.stream_outputs`.
        whole: None either where activations are missing.

    Raises:
        FtkitError: An image can't be read; the message names it.
    """
    if prefix is None or store is None:
        yield None
        return
    images = image_digests(samples.split)
    table = _opened(prefix, samples, images, store, note, whole)
    if table is None:
        yield None
        return
    try:
        if whole and table.missing():
            yield None
            return
        stored = _fill(table, prefix, samples, images, threads)
        if stored:
            of = plural(len(samples), "image")
            note(f"the cache has the activations after {prefix.cut.name} of {stored:,} of {of}")
        yield CachedSplit(prefix.cut, table, samples.split)
    finally:
        table.close()


def find_cached_prefix(loaded: Loaded, store: CacheStore | None) -> FrozenPrefix | None:
    """The longest prefix of a model that has a table; None where none has.

    It is remembered with the model: making and trying a cut takes as long as 50 images.
    """
    if store is None:
        return None
    remembered = _FOUND.setdefault(loaded, {})
    if store.folder not in remembered:
        found = _longest_prefix(loaded, store)
        if found is None:
            return None
        remembered[store.folder] = found
    return remembered[store.folder]


_FOUND: WeakKeyDictionary[Loaded, dict[Path, FrozenPrefix]] = WeakKeyDictionary()
"""Prefixes by model, and by the folder of tables."""


def _longest_prefix(loaded: Loaded, store: CacheStore) -> FrozenPrefix | None:
    stored = cached_prefixes(store)
    if not stored:
        return None
    preprocessing, compute = loaded.card.preprocessing, loaded.compute
    try:
        cut_finder = open_cut_finder(loaded.model, compute, preprocessing)
        keys = TableKeys(cut_finder, compute)
        names = {name for name, _ in stored if cut_finder.depth(name) >= 0}
        for name in sorted(names, key=cut_finder.depth, reverse=True):
            key = keys.prefix_key(name)
            if (name, key) in stored:
                cut = cut_finder.cut_at(name)
                return FrozenPrefix(cut_finder, cut, key, compute, preprocessing, loaded.card.backbone.name)
    except NoCutError:
        # Runs of such a network train uncached, and report the reason.
        pass
    return None


def prefix_before_head(
    network: nn.Module, groups: Sequence[LayerGroup], compute: Compute, preprocessing: Preprocessing, backbone: str
) -> FrozenPrefix | None:
    """All of a network that is frozen while only its head trains; None where it can't be cut there.

    The network's parameters and modes are left set for training the head.
    """
    try:
        cut_finder = open_cut_finder(network, compute, preprocessing)
        cut = cut_finder.cut(set_trainable(network, groups, {groups[-1].name}))
    except NoCutError:
        return None
    key = TableKeys(cut_finder, compute).prefix_key(cut.name)
    return FrozenPrefix(cut_finder, cut, key, compute, preprocessing, backbone)


def open_cut_finder(network: nn.Module, compute: Compute, preprocessing: Preprocessing) -> CutFinder:
    """Finds cuts of a network; it tries them on the same images each time."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, preprocessing.channels, preprocessing.size, preprocessing.size, generator=generator)
    return CutFinder(network, compute.to_device(images), compute.autocast)


def _opened(
    prefix: FrozenPrefix, samples: Samples, images: ImageDigests, store: CacheStore, note: Note, whole: bool
) -> Table | None:
    cut, preprocessing = prefix.cut, prefix.preprocessing
    key = table_key(prefix.key, images.digest, preprocessing)
    worth = not whole and is_worth_storing(cut.nbytes, preprocessing.channels * preprocessing.size**2)
    if not store.has(key) and not worth:
        return None
    about = f"{prefix.backbone} after {cut.name}: {plural(len(samples), 'image')}"
    spec = TableSpec(key, about, len(samples), cut, prefix.key)
    try:
        return open_checked_table(store, spec, partial(_row, prefix, samples), note)
    except OSError as error:
        note(f"{store.folder}: {error.strerror or error}; nothing is read from the cache")
        return None


def _row(prefix: FrozenPrefix, samples: Samples, index: int) -> Tensor | None:
    """A row computed now, `(1, *shape)`; None where its image can't be read."""
    network = fast_prefix(prefix.cut_finder, [prefix.cut.name], prefix.compute, prefix.preprocessing)
    size = prefix.preprocessing.size
    rows = compute_rows(network, prefix.compute, size, samples, [[(UNAUGMENTED, index, 0)]], threads=1)
    with closing(rows):
        values, _ = next(rows)
    return values[0] if values else None


def _fill(table: Table, prefix: FrozenPrefix, samples: Samples, images: ImageDigests, threads: int | None) -> int:
    """Compute the missing rows of a table; returns how many it had."""
    missing = table.missing()
    lists: list[list[Key]] = [[(UNAUGMENTED, index, 0) for index in table.rows_of(chunk)] for chunk in missing]
    network = fast_prefix(prefix.cut_finder, [prefix.cut.name], prefix.compute, prefix.preprocessing)
    rows = compute_rows(network, prefix.compute, prefix.preprocessing.size, samples, lists, threads)
    for chunk, (values, batch) in zip(missing, rows, strict=True):
        raise_failures(batch.failures)
        images.require_same(batch.indices.tolist())
        table.put(chunk, batch.indices.tolist(), values[0])
    return len(samples) - sum(map(len, lists))
