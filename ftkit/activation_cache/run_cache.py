"""The activation cache of a run.

Each phase has its cut (`activation_cache.cut`) and reads rows from tables (`activation_cache.table`). A variant that an
epoch needs and no table has yet is computed before the epoch, in one pass that also fills the tables of later phases.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

from accelerate.utils import gather_object
from torch import Tensor, nn

from ftkit.activation_cache.cached_augmentations import UNAUGMENTED, AugmentedSamples
from ftkit.activation_cache.cached_batches import CachedBatches
from ftkit.activation_cache.cutting.cut import Cut
from ftkit.activation_cache.cutting.finder import CutFinder
from ftkit.activation_cache.feed import Feed
from ftkit.activation_cache.policy import Use
from ftkit.activation_cache.prefix import compute_rows, fast_prefix
from ftkit.activation_cache.table import Table
from ftkit.activation_cache.table_images import RunImages, TableImages
from ftkit.activation_cache.table_keys import TableKeys, TableSpec, open_checked_table, table_key
from ftkit.data.loading.loader import Batch
from ftkit.data.loading.order import Key, Shard
from ftkit.data.loading.read_failures import ReadFailure
from ftkit.distributed.collectives import max_over_processes
from ftkit.files.cache_folder import CHUNK, CacheStore, activation_folder
from ftkit.models.identity import code_identity
from ftkit.parts.dataset import SplitName
from ftkit.strategies.schedule import Phase
from ftkit.transforms import pipeline

if TYPE_CHECKING:
    from ftkit.training.session import Session

NOTE_SECONDS = 10.0
"""Between two notes on the progress of a long pass."""

Place = tuple[str, SplitName, int]
"""Cut, split and variant of a table."""


@dataclass
class RunCache:
    """The cache of one run.

    Attributes:
        cuts: One a phase, or the reason why there is none.
        eval_cuts: The cuts as validation computes them, which may be in another precision, by name.
        probe_cut: The same for the probe, which trains the head alone; None without a probe.
        on_batch: Called after each batch of a pass that fills tables, in all processes.
        disk_error: Why nothing can be stored any more; empty where the disk works.
        unreadable: Chunks that stay incomplete, since an image of theirs can't be read.
    """

    session: Session
    cut_finder: CutFinder
    cuts: Mapping[Phase, Cut | str]
    eval_cuts: Mapping[str, Cut]
    uses: Mapping[Phase, Use]
    probe_cut: Cut | str | None
    on_batch: Callable[[], None]
    failures: dict[SplitName, dict[int, ReadFailure]] = field(default_factory=lambda: {"train": {}, "val": {}})
    unreadable: set[tuple[Place, int]] = field(default_factory=set)
    disk_error: str = ""
    _reported: bool = False
    _compared: set[tuple[str, SplitName]] = field(default_factory=set)
    _tables: dict[Place, Table] = field(default_factory=dict)
    _prefixes: dict[tuple[str, ...], nn.Module] = field(default_factory=dict)
    _keys: dict[str, TableKeys] = field(default_factory=dict)

    def images(self, split: SplitName) -> TableImages:
        """The images that the tables of a split hold."""
        return self._images.of(split)

    def feed(self, phase: Phase) -> Feed:
        """What a phase trains and evaluates, and on which batches."""
        cut, use = self.cuts[phase], self.uses[phase]
        self._close_unused(phase)
        self._prefixes.clear()
        if self.session.plan.config.zero_stage:
            # ZeRO's updates don't change the versions that torch counts.
            for keys in self._keys.values():
                keys.forget()
        if isinstance(cut, str) or use.cut is None:
            return self.session.uncached
        return self._feed(cut)

    def probe_feed(self) -> Feed:
        """What the probe takes its features from: training and validation images without augmentation."""
        if not isinstance(self.probe_cut, Cut):
            return self.session.uncached
        feed = self._feed(self.probe_cut)
        share = feed.val_loader.batch_sampler
        plain = Shard(len(self.session.split("train")), share.batch_size, self.session.rank, self.session.world)
        return Feed(
            feed.model, CachedBatches(self, self.probe_cut, "train", plain, 1), feed.eval_model, feed.val_loader
        )

    def _feed(self, cut: Cut) -> Feed:
        session, evaluated = self.session, self._for_split(cut, "val")
        share = Shard(len(session.split("val")), session.plan.batches.batch_size, session.rank, session.world)
        return Feed(
            cut.train_suffix,
            CachedBatches(self, cut, "train", session.order, session.plan.cache_policy.variants),
            evaluated.eval_suffix,
            CachedBatches(self, evaluated, "val", share, 1),
        )

    def tables(self, cut: Cut, split: SplitName, variants: Iterable[int]) -> dict[int, Table] | None:
        """The complete tables of a cut by variant; None where the disk fails."""
        found: dict[int, Table] = {}
        for variant in sorted(set(variants)):
            table = self._complete(cut, split, variant)
            if table is None:
                return None
            found[variant] = table
        return found

    def compute_uncached(self, cut: Cut, split: SplitName, batches: Sequence[list[Key]]) -> Iterator[Batch]:
        """Batches whose activations are computed and not stored; keys are of the variant and the row."""
        for values, batch in self._values([cut.name], split, batches):
            yield Batch(values[0], batch.labels, batch.indices, batch.failures) if values else batch

    def close(self) -> None:
        """Unlock the tables, so that others may remove them."""
        for table in self._tables.values():
            table.close()
        self._tables.clear()

    def _complete(self, cut: Cut, split: SplitName, variant: int) -> Table | None:
        place, accelerator = (cut.name, split, variant), self.session.accelerator
        cuts = [cut, *self._later_cuts(cut, split, variant)]
        tables = [table for each in cuts if (table := self._opened(each, split, variant)) is not None]
        shared = self.session.world > 1
        # One process alone may find the disk full, and all must continue in the same way.
        while not max_over_processes(accelerator, int(bool(self.disk_error))):
            missing = [chunk for chunk in tables[0].missing() if (place, chunk) not in self.unreadable]
            accelerator.wait_for_everyone()
            if not max_over_processes(accelerator, len(missing)):
                return tables[0]
            self._fill(split, variant, self._own_part(missing) if shared else missing, cuts, tables)
            # What is missing after that was stored by a process on a machine with another folder.
            shared = False
        self._report_disk_error()
        return None

    def _own_part(self, missing: Sequence[int]) -> Sequence[int]:
        """This process's part of the chunks that its machine computes; machines need not have a folder in common."""
        place = int(self.session.accelerator.local_process_index)
        return missing[place :: max(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), place + 1)]

    def _later_cuts(self, cut: Cut, split: SplitName, variant: int) -> Iterator[Cut]:
        """Cuts of later phases that the same pass fills too, until layers before them train."""
        epoch, lowest = self.session.progress.epoch, cut.depth
        seen = {cut.name}
        for phase, other in self.cuts.items():
            if phase.stop <= epoch:
                continue
            if isinstance(other, str):
                return
            wanted = self.uses[phase].cut is not None and (split == "val" or variant in self.uses[phase].variants)
            if wanted and other.depth <= lowest and other.name not in seen:
                seen.add(other.name)
                yield self._for_split(other, split)
            lowest = min(lowest, other.depth)

    def _fill(
        self, split: SplitName, variant: int, own: Sequence[int], cuts: Sequence[Cut], tables: Sequence[Table]
    ) -> None:
        """Compute chunks of a variant into the tables of all the cuts, while other processes compute theirs."""
        session = self.session
        missing = [set(table.missing()) for table in tables]
        rows_of = tables[0].rows_of
        keys = [[(variant, index, 0) for index in rows_of(chunk)] for chunk in own]
        noted, found = time.monotonic(), dict[int, ReadFailure]()
        with closing(self._values([cut.name for cut in cuts], split, keys)) as results:
            for number in range(max_over_processes(session.accelerator, len(own))):
                if number < len(own) and not self.disk_error:
                    values, batch = next(results)
                    found |= _by_row(rows_of(own[number]), batch)
                    wanted = [
                        table if own[number] in chunks else None for table, chunks in zip(tables, missing, strict=True)
                    ]
                    self._store_rows(split, values, session.unreadable.readable(split, batch), own[number], wanted)
                self.on_batch()
                if time.monotonic() - noted > NOTE_SECONDS:
                    noted = time.monotonic()
                    done = f"{(number + 1) / max(1, len(own)):.0%}"
                    session.listener.note(f"{_about(split, variant)}: {done} computed for the cache")
        for one in gather_object([found]) if session.world > 1 else [found]:
            self.failures[split] |= one
        broken = {index // CHUNK for index in self.failures[split]}
        self.unreadable |= {((cut.name, split, variant), chunk) for cut in cuts for chunk in broken}

    def _store_rows(
        self, split: SplitName, values: Sequence[Tensor], batch: Batch, chunk: int, tables: Sequence[Table | None]
    ) -> None:
        if not values:
            return
        self.images(split).digests.require_same(batch.indices.tolist())
        try:
            for table, value in zip(tables, values, strict=True):
                if table is not None:
                    table.put(chunk, batch.indices.tolist(), value)
        except OSError as error:
            self.disk_error = f"{self._store.folder}: {error.strerror or error}"

    def _values(
        self, names: Sequence[str], split: SplitName, lists: Sequence[Sequence[Key]]
    ) -> Generator[tuple[Sequence[Tensor], Batch]]:
        compute, preprocessing = self.session.compute_for(split), self.session.plan.preprocessing
        key = compute.precision, *names
        if key not in self._prefixes:
            self._prefixes[key] = fast_prefix(self.cut_finder, names, compute, preprocessing)
        return compute_rows(self._prefixes[key], compute, preprocessing.size, self._samples(split), lists)

    def _samples(self, split: SplitName) -> AugmentedSamples:
        plan = self.session.plan
        plain = pipeline.evaluation(plan.preprocessing)
        augmented = pipeline.training(plan.preprocessing, plan.augmentation, plan.image_transforms)
        images = self.images(split)
        return AugmentedSamples(images.split, plain, augmented, plan.config.seed, images.pixels)

    def _opened(self, cut: Cut, split: SplitName, variant: int) -> Table | None:
        place, plan = (cut.name, split, variant), self.session.plan
        if place not in self._tables and not self.disk_error:
            images = self.images(split)
            count = len(images.split)
            about = f"{plan.backbone.name} after {cut.name}: {count:,} {_about(split, variant)}"
            try:
                prefix_key = self._keys_of(split).prefix_key(cut.name)
                changes = [repr(plan.augmentation), *map(code_identity, plan.image_transforms)]
                drawn = [plan.config.seed, variant, *changes] if variant != UNAUGMENTED else []
                key = table_key(prefix_key, images.digests.digest, plan.preprocessing, drawn)
                recompute = None if (cut.name, split) in self._compared else partial(self._row, cut, split, variant)
                spec = TableSpec(key, about, count, cut, prefix_key)
                self._tables[place] = open_checked_table(self._store, spec, recompute, self.session.listener.note)
                self._compared.add((cut.name, split))
            except OSError as error:
                self.disk_error = f"{self._store.folder}: {error.strerror or error}"
        return self._tables.get(place)

    def _row(self, cut: Cut, split: SplitName, variant: int, index: int) -> Tensor | None:
        """A row computed now, `(1, *shape)`; None where its image can't be read."""
        with closing(self._values([cut.name], split, [[(variant, index, 0)]])) as results:
            values, _ = next(results)
        return values[0] if values else None

    def _report_disk_error(self) -> None:
        if self.disk_error and not self._reported:
            self._reported = True
            self.session.listener.note(f"{self.disk_error}; frozen layers are computed in each epoch from now on")

    def _close_unused(self, phase: Phase) -> None:
        """Close tables that no phase from this one on uses, and those of weights that have been trained since."""
        names = {cut.name for p, cut in self.cuts.items() if p.stop >= phase.stop and isinstance(cut, Cut)}
        before = [cut for p, cut in self.cuts.items() if p.stop == phase.start]
        if before:
            trained = before[0].depth if isinstance(before[0], Cut) else -1
            names = {name for name in names if self.cut_finder.depth(name) <= trained}
        for place in [place for place in self._tables if place[0] not in names]:
            self._tables.pop(place).close()
        self.unreadable = {(place, chunk) for place, chunk in self.unreadable if place in self._tables}

    @cached_property
    def _images(self) -> RunImages:
        return RunImages(self.session)

    @cached_property
    def _store(self) -> CacheStore:
        config = self.session.plan.config.cache
        return CacheStore(activation_folder(config.dir), config.limit)

    def _for_split(self, cut: Cut, split: SplitName) -> Cut:
        return self.eval_cuts[cut.name] if split == "val" else cut

    def _keys_of(self, split: SplitName) -> TableKeys:
        compute = self.session.compute_for(split)
        if compute.precision not in self._keys:
            self._keys[compute.precision] = TableKeys(self.cut_finder, compute)
        return self._keys[compute.precision]


def _about(split: SplitName, variant: int) -> str:
    return f"{split} images, {f'augmentation {variant}' if variant != UNAUGMENTED else 'without augmentation'}"


def _by_row(rows: range, batch: Batch) -> dict[int, ReadFailure]:
    """Faults of a batch by their rows."""
    return dict(zip(sorted(set(rows) - set(batch.indices.tolist())), batch.failures, strict=True))
