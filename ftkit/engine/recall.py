"""Judging a model by what runs have kept: where a cached run shares its frozen beginning, that isn't computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ftkit.activation_folder import Store, activation_folder
from ftkit.config.schema import Cache
from ftkit.engine.bundle import Loaded
from ftkit.engine.cached import PLAIN
from ftkit.engine.cut import Cut, Cutter, NoCutError
from ftkit.engine.data import Samples, require_whole
from ftkit.engine.images_digest import images_digest
from ftkit.engine.order import Key
from ftkit.engine.passes import computed_rows
from ftkit.engine.table_keys import TableKeys, table_key
from ftkit.engine.tables import Table, open_table
from ftkit.spec.dataset import Split

LARGEST = 4
"""Bytes that a value may take for each of its image's: to write larger ones takes as long as to compute them, and they
fill the folder. Where a run has kept them, they are used all the same."""

Tell = Callable[[str], None]


def unheard(line: str) -> None:
    """For those who don't listen."""


def store_of(config: Cache) -> Store | None:
    """The folder of tables of a config; None where it wants none used."""
    return Store(activation_folder(config.dir), config.limit) if config.use else None


@dataclass(frozen=True)
class Recalled:
    """A split's values at a cut of a model, each of them in a table.

    Attributes:
        cut: Its `judged` is what comes after it.
    """

    cut: Cut
    table: Table
    split: Split

    def read(self, key: Key) -> tuple[Tensor, tuple[int, int]]:
        """A sample's value with its label and index."""
        index = key[1]
        return self.table.take(torch.tensor(index)), (self.split.labels[index], index)


@contextmanager
def recalled(
    loaded: Loaded, samples: Samples, store: Store | None, tell: Tell, threads: int | None = None
) -> Iterator[Recalled | None]:
    """A split's values at the deepest cut that runs keep values at; those that aren't kept yet are, from now on.

    None where no run in the store has the same beginning as this model, its values are large and none are kept, or
    the folder can't be used.

    Args:
        samples: Of the split, as evaluation sees them.
        tell: Called with a line for people.
        threads: As in `engine.stream.computed`.

    Raises:
        FtkitError: An image can't be read; the message names it.
    """
    found = _shared_cut(loaded, store) if store is not None else None
    if store is None or found is None:
        yield None
        return
    cutter, cut, beginning = found
    look = loaded.card.preprocessing
    key = table_key(beginning, images_digest(samples.split), [asdict(look), []])
    if not store.has(key) and cut.nbytes > LARGEST * look.channels * look.size**2:
        yield None
        return
    about = f"{loaded.card.backbone.name} after {cut.name}: {len(samples):,} images"
    facts = {"cut": cut.name, "beginning": beginning}
    try:
        table = open_table(store, key, about, len(samples), cut.shape, cut.dtype, facts)
    except OSError as error:
        tell(f"{store.folder}: {error.strerror or error}; what is frozen is computed anew")
        yield None
        return
    try:
        kept = _fill(table, loaded, samples, cutter, cut, tell, threads)
        if kept:
            tell(f"the cache has the activations after {cut.name} of {kept:,} of {len(samples):,} images")
        yield Recalled(cut, table, samples.split)
    finally:
        table.close()


def _shared_cut(loaded: Loaded, store: Store) -> tuple[Cutter, Cut, str] | None:
    """The deepest cut of a model that a table is of, and what its beginning is known by."""
    kept = {(e.facts.get("cut", ""), e.facts.get("beginning", "")) for e in store.entries()}
    if not any(beginning for _, beginning in kept):
        return None
    look, compute = loaded.card.preprocessing, loaded.compute
    generator = torch.Generator().manual_seed(0)
    sample = compute.take(torch.randn(2, look.channels, look.size, look.size, generator=generator))
    try:
        cutter = Cutter(loaded.model, sample, compute.autocast)
        keys = TableKeys(cutter, compute)
        places = {name for name, _ in kept if cutter.depth(name) >= 0}
        for name in sorted(places, key=cutter.depth, reverse=True):
            beginning = keys.beginning(name)
            if (name, beginning) in kept:
                return cutter, cutter.cut_at(name), beginning
    except NoCutError:
        pass
    return None


def _fill(
    table: Table, loaded: Loaded, samples: Samples, cutter: Cutter, cut: Cut, tell: Tell, threads: int | None
) -> int:
    """Compute what a table lacks; how many rows it had."""
    missing = table.missing()
    lists: list[list[Key]] = [[(PLAIN, index, 0) for index in table.rows_of(chunk)] for chunk in missing]
    beginning = cutter.prefix([cut.name])
    rows = computed_rows(beginning, loaded.compute, loaded.card.preprocessing, samples, lists, threads)
    for chunk, (values, batch) in zip(missing, rows, strict=True):
        require_whole(batch.faults)
        table.put(chunk, batch.indices.tolist(), values[0])
    return len(samples) - sum(map(len, lists))
