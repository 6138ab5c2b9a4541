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

from ftkit.activation_cache.cached_augmentations import PLAIN
from ftkit.activation_cache.cut import Cut, Cutter, NoCutError
from ftkit.activation_cache.prefix import computed_rows, quick
from ftkit.activation_cache.table import Table
from ftkit.activation_cache.table_keys import TableKeys, kept_beginnings, open_values, table_key
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

Tell = Callable[[str], None]


def unheard(line: str) -> None:
    """For those who don't listen."""


def store_of(config: Cache) -> CacheStore | None:
    """The folder of tables of a config; None where it wants none used."""
    return CacheStore(activation_folder(config.dir), config.limit) if config.use else None


@dataclass(frozen=True)
class Beginning:
    """What of a network is computed once for an image.

    Attributes:
        cut: What comes after it.
        key: What it is known by, as `TableKeys` has it.
        backbone: The network's name, for people.
    """

    cutter: Cutter
    cut: Cut
    key: str
    compute: Compute
    look: Preprocessing
    backbone: str


@dataclass(frozen=True)
class Recalled:
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
def recalled(
    beginning: Beginning | None, samples: Samples, store: CacheStore | None, tell: Tell, threads: int | None = None
) -> Iterator[Recalled | None]:
    """A split's values after a beginning; those that aren't kept yet are, from now on.

    None where there is no beginning or store, the values are large and none are kept, or the folder can't be used.

    Args:
        samples: Of the split, as evaluation sees them.
        tell: Called with a line for people.
        threads: As in `engine.inference.stream.computed`.

    Raises:
        FtkitError: An image can't be read; the message names it.
    """
    if beginning is None or store is None:
        yield None
        return
    images = image_digests(samples.split)
    table = _opened(beginning, samples, images, store, tell)
    if table is None:
        yield None
        return
    try:
        kept = _fill(table, beginning, samples, images, threads)
        if kept:
            of = plural(len(samples), "image")
            tell(f"the cache has the activations after {beginning.cut.name} of {kept:,} of {of}")
        yield Recalled(beginning.cut, table, samples.split)
    finally:
        table.close()


def shared_beginning(loaded: Loaded, store: CacheStore | None) -> Beginning | None:
    """The longest beginning of a model that a table is of; None where none is."""
    kept = kept_beginnings(store) if store is not None else set()
    if not kept:
        return None
    look, compute = loaded.card.preprocessing, loaded.compute
    try:
        cutter = open_cutter(loaded.model, compute, look)
        keys = TableKeys(cutter, compute)
        places = {name for name, _ in kept if cutter.depth(name) >= 0}
        for name in sorted(places, key=cutter.depth, reverse=True):
            key = keys.beginning(name)
            if (name, key) in kept:
                return Beginning(cutter, cutter.cut_at(name), key, compute, look, loaded.card.backbone.name)
    except NoCutError:
        # Runs of such a network aren't cached either, and say why.
        pass
    return None


def before_head(
    network: nn.Module, groups: Sequence[LayerGroup], compute: Compute, look: Preprocessing, backbone: str
) -> Beginning | None:
    """All of a network that is fixed while its head alone trains; None where that can't be told apart.

    Its parameters and modes are left as for that.
    """
    try:
        cutter = open_cutter(network, compute, look)
        cut = cutter.cut(set_trainable(network, groups, {groups[-1].name}))
    except NoCutError:
        return None
    return Beginning(cutter, cut, TableKeys(cutter, compute).beginning(cut.name), compute, look, backbone)


def open_cutter(network: nn.Module, compute: Compute, look: Preprocessing) -> Cutter:
    """Cuts a network; what it tries its cuts on is always the same.

    Raises:
        NoCutError: The network can't be traced.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, look.channels, look.size, look.size, generator=generator)
    return Cutter(network, compute.take(images), compute.autocast)


def _opened(
    beginning: Beginning, samples: Samples, images: ImageDigests, store: CacheStore, tell: Tell
) -> Table | None:
    cut, look = beginning.cut, beginning.look
    key = table_key(beginning.key, images.digest, look)
    if not store.has(key) and cut.nbytes > LARGEST * look.channels * look.size**2:
        return None
    about = f"{beginning.backbone} after {cut.name}: {plural(len(samples), 'image')}"
    try:
        return open_values(store, key, about, len(samples), cut, beginning.key, partial(_row, beginning, samples), tell)
    except OSError as error:
        tell(f"{store.folder}: {error.strerror or error}; what is frozen is computed anew")
        return None


def _row(beginning: Beginning, samples: Samples, index: int) -> Tensor | None:
    """A row as it is now; None where its image can't be read."""
    network = quick(beginning.cutter, [beginning.cut.name], beginning.compute, beginning.look)
    rows = computed_rows(network, beginning.compute, beginning.look, samples, [[(PLAIN, index, 0)]], 1)
    with closing(rows):
        values, _ = next(rows)
    return values[0] if values else None


def _fill(table: Table, beginning: Beginning, samples: Samples, images: ImageDigests, threads: int | None) -> int:
    """Compute what a table lacks; how many rows it had."""
    missing = table.missing()
    lists: list[list[Key]] = [[(PLAIN, index, 0) for index in table.rows_of(chunk)] for chunk in missing]
    network = quick(beginning.cutter, [beginning.cut.name], beginning.compute, beginning.look)
    rows = computed_rows(network, beginning.compute, beginning.look, samples, lists, threads)
    for chunk, (values, batch) in zip(missing, rows, strict=True):
        raise_failures(batch.failures)
        images.require_same(batch.indices.tolist())
        table.put(chunk, batch.indices.tolist(), values[0])
    return len(samples) - sum(map(len, lists))
