"""The activation cache of a run: what its frozen beginning gives for each image, computed once and kept.

Each phase has its cut (`engine.cut`) and takes rows from tables (`engine.tables`). A view that an epoch needs
and no table has yet is computed before the epoch, in one pass that also fills the tables of later phases.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch
import torchvision
from accelerate.utils import gather_object
from torch import Tensor

from ftkit.activation_folder import CHUNK, Store, activation_folder
from ftkit.engine import data, transforms
from ftkit.engine.agree import largest
from ftkit.engine.cut import Cut, Cutter, NoCutError
from ftkit.engine.data import Batch, Fault, Key
from ftkit.engine.groups import set_trainable
from ftkit.engine.images_digest import images_digest
from ftkit.engine.late import usable
from ftkit.engine.layout import cast
from ftkit.engine.session import Feed, Session
from ftkit.engine.stopping import stop_if_asked
from ftkit.engine.stream import computed
from ftkit.engine.tables import Table, open_table
from ftkit.spec.caching import NO_GAIN, CutSize, Use, decide
from ftkit.spec.dataset import Split, SplitName
from ftkit.spec.schedule import Phase

PLAIN = 0
"""The view that evaluation sees; the others are augmented."""
PATIENCE_SECONDS = 10.0
"""Between two words on how far a long pass is."""

Place = tuple[str, SplitName, int]
"""Which table: cut, split and view."""


def open_activations(session: Session) -> Activations | None:
    """Find the cuts of the run's phases, and decide which of them use the cache; None where none does."""
    plan = session.plan
    if plan.views == 0:
        return None
    groups, phases = plan.schedule.groups, plan.schedule.phases
    if not plan.probe and all(len(phase.trainable) == len(groups) for phase in phases):
        return None
    pre = plan.preprocessing
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(2, pre.channels, pre.size, pre.size, generator=generator)
    head = frozenset({groups[-1].name})
    thawed = {phase.trainable for phase in phases} | ({head} if plan.probe else set())
    try:
        cutter = Cutter(session.network, session.compute.take(sample), session.compute.autocast)
        known = {trainable: _cut(cutter, session, trainable) for trainable in thawed}
    except NoCutError as error:
        session.listener.note(f"nothing is cached: the network can't be cut in two, since {error}")
        return None
    finally:
        session.network.requires_grad_(True)
    probe = known[head] if plan.probe else None
    found = [known[phase.trainable] for phase in phases]
    uses = decide(
        phases,
        [_size(cut) if isinstance(cut, Cut) else cut for cut in found],
        _size(probe) if isinstance(probe, Cut) else None,
        len(session.split("train")),
        len(session.split("val")),
        plan.views,
        plan.config.balance == "sampler",
        plan.config.cache.limit,
    )
    for phase, use in zip(phases, uses, strict=True):
        if use.reason not in ("", NO_GAIN) and len(phase.trainable) < len(groups):
            session.listener.note(f"{_epochs(phase)}: nothing is cached, since {use.reason}")
    return Activations(
        session, cutter, dict(zip(phases, found, strict=True)), dict(zip(phases, uses, strict=True)), probe
    )


@dataclass
class Activations:
    """The cache of one run.

    Attributes:
        cuts: One a phase, or the reason why there is none.
        probe_cut: The same for the probe, before which all but the head is fixed; None where there is no probe.
        trouble: Why nothing can be kept any more; empty where all is well.
        settled: Chunks that won't be computed again in this run, since an image of them can't be read.
    """

    session: Session
    cutter: Cutter
    cuts: Mapping[Phase, Cut | str]
    uses: Mapping[Phase, Use]
    probe_cut: Cut | str | None
    faults: dict[SplitName, dict[int, Fault]] = field(default_factory=lambda: {"train": {}, "val": {}})
    settled: set[tuple[Place, int]] = field(default_factory=set)
    trouble: str = ""
    _told: bool = False
    _tables: dict[Place, Table] = field(default_factory=dict)
    _digests: dict[tuple[str, int], str] = field(default_factory=dict)

    def feed(self, phase: Phase) -> Feed:
        """What a phase trains and is judged on; the ordinary way where it doesn't use the cache."""
        cut, use = self.cuts[phase], self.uses[phase]
        self._close_but(phase)
        if isinstance(cut, str) or use.cut is None:
            return self.session.ordinary
        return self._feed(cut)

    def probe_feed(self) -> Feed:
        """What the probe takes its features from: training and validation images as evaluation sees them."""
        if not isinstance(self.probe_cut, Cut):
            return self.session.ordinary
        feed = self._feed(self.probe_cut)
        share = feed.val_loader.batch_sampler
        plain = data.Share(len(self.session.split("train")), share.batch_size, self.session.rank, self.session.world)
        return Feed(feed.trained, Cached(self, self.probe_cut, "train", plain, 1), feed.judged, feed.val_loader)

    def _feed(self, cut: Cut) -> Feed:
        session = self.session
        share = data.Share(len(session.split("val")), session.plan.config.batch_size, session.rank, session.world)
        return Feed(
            cut.trained,
            Cached(self, cut, "train", session.order, session.plan.views),
            cut.judged,
            Cached(self, cut, "val", share, 1),
        )

    def tables(self, cut: Cut, split: SplitName, views: Iterable[int]) -> dict[int, Table] | None:
        """The tables of a cut by view, with all that can be read in them; None where the disk fails."""
        found: dict[int, Table] = {}
        for view in sorted(set(views)):
            table = self._filled(cut, split, view)
            if table is None:
                return None
            found[view] = table
        return found

    def _filled(self, cut: Cut, split: SplitName, view: int) -> Table | None:
        place, accelerator = (cut.name, split, view), self.session.accelerator
        cuts = [cut, *self._later(cut, split, view)]
        tables = [table for each in cuts if (table := self._opened(each, split, view)) is not None]
        shared = self.session.world > 1
        # Each process may find the disk full by itself, and all must go on in the same way.
        while not largest(accelerator, int(bool(self.trouble))):
            missing = [chunk for chunk in tables[0].missing() if (place, chunk) not in self.settled]
            accelerator.wait_for_everyone()
            if not largest(accelerator, len(missing)):
                return tables[0]
            self._fill(split, view, self._share(missing) if shared else missing, cuts, tables)
            # What a process lacks after that, others have kept where it can't see it.
            shared = False
        self._tell_trouble()
        return None

    def _share(self, missing: Sequence[int]) -> Sequence[int]:
        """This process's part of what its machine computes; machines need not have a folder in common."""
        place = int(self.session.accelerator.local_process_index)
        return missing[place :: max(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), place + 1)]

    def computed(self, cut: Cut, split: SplitName, batches: Sequence[list[Key]]) -> Iterator[Batch]:
        """Batches whose rows are computed for this once; their keys' first number is the view."""
        for values, batch in self._values([cut.name], split, batches):
            yield Batch(values[0], batch.labels, batch.indices, batch.faults) if values else batch

    def _values(
        self, names: Sequence[str], split: SplitName, lists: Sequence[Sequence[Key]]
    ) -> Generator[tuple[Sequence[Tensor], Batch]]:
        """For each list of keys the values at some cuts, none where it has no image, and a batch without its images."""
        compute, samples, look = self.session.compute, self._samples(split), self.session.plan.preprocessing
        size = min(CHUNK, 2 * compute.few(look.size))
        prefix = cast(self.cutter.prefix(names), compute, look.channels, look.size)
        pieces = (keys[start : start + size] for keys in lists for start in range(0, len(keys), size))
        results = computed(compute, prefix, pieces, samples.read)
        for keys in lists:
            parts = [next(results) for _ in range(0, len(keys), size)]
            there = [one for rest, _ in parts for one in rest if not isinstance(one, Fault)]
            faults = [one for rest, _ in parts for one in rest if isinstance(one, Fault)]
            labels, indices = (torch.tensor([one[n] for one in there], dtype=torch.int64) for n in (0, 1))
            values = [torch.cat(rows) for rows in zip(*(rows for _, rows in parts if rows), strict=True)]
            yield values, Batch(torch.empty(0), labels, indices, tuple(faults))

    def _later(self, cut: Cut, split: SplitName, view: int) -> Iterator[Cut]:
        """Cuts of later phases that the same pass fills too."""
        epoch = self.session.progress.epoch
        seen = {cut.name}
        for phase, other in self.cuts.items():
            if phase.stop <= epoch or isinstance(other, str) or self.uses[phase].cut is None:
                continue
            wanted = split == "val" or view in self.uses[phase].views
            if wanted and other.depth <= cut.depth and other.name not in seen:
                seen.add(other.name)
                yield other

    def _fill(
        self, split: SplitName, view: int, own: Sequence[int], cuts: Sequence[Cut], tables: Sequence[Table]
    ) -> None:
        """Compute chunks of a view into the tables of all the cuts; other processes compute others meanwhile."""
        session = self.session
        lacking = [set(table.missing()) for table in tables]
        rows_of = tables[0].rows_of
        names = [cut.name for cut in cuts]
        keys = [[(view, index, 0) for index in rows_of(chunk)] for chunk in own]
        told, found = time.monotonic(), dict[int, Fault]()
        with closing(self._values(names, split, keys)) as results:
            for number in range(largest(session.accelerator, len(own))):
                if number < len(own) and not self.trouble:
                    values, batch = next(results)
                    found |= _by_row(rows_of(own[number]), batch)
                    self._keep(values, usable(session, split, batch), own[number], tables, lacking)
                stop_if_asked(session)
                if time.monotonic() - told > PATIENCE_SECONDS:
                    told = time.monotonic()
                    share = f"{(number + 1) / max(1, len(own)):.0%}"
                    session.listener.note(f"view {view + 1} of the {split} images: {share} computed for the cache")
        for one in gather_object([found]) if session.world > 1 else [found]:
            self.faults[split] |= one
        broken = {index // CHUNK for index in self.faults[split]}
        self.settled |= {((cut.name, split, view), chunk) for cut in cuts for chunk in broken}

    def _keep(
        self, values: Sequence[Tensor], batch: Batch, chunk: int, tables: Sequence[Table], lacking: Sequence[Set[int]]
    ) -> None:
        if not values:
            return
        try:
            for table, value, wanted in zip(tables, values, lacking, strict=True):
                if chunk in wanted:
                    table.put(chunk, batch.indices.tolist(), value)
        except OSError as error:
            self.trouble = f"{self._store.folder}: {error.strerror or error}"

    def _samples(self, split: SplitName) -> Views:
        plan = self.session.plan
        plain = transforms.evaluation(plan.preprocessing)
        augmented = transforms.training(plan.preprocessing, plan.augmentation)
        return Views(self.session.split(split), plain, augmented, plan.config.seed, self.session.pixels(split))

    def _opened(self, cut: Cut, split: SplitName, view: int) -> Table | None:
        place = cut.name, split, view
        if place not in self._tables and not self.trouble:
            count = len(self.session.split(split))
            about = f"{self.session.plan.backbone.name} after {cut.name}: {count:,} {split} images, view {view + 1}"
            try:
                self._tables[place] = open_table(
                    self._store, self._key(cut, split, view), about, count, cut.shape, cut.dtype
                )
            except OSError as error:
                self.trouble = f"{self._store.folder}: {error.strerror or error}"
        return self._tables.get(place)

    def _tell_trouble(self) -> None:
        if self.trouble and not self._told:
            self._told = True
            self.session.listener.note(f"{self.trouble}; what is frozen is computed in each epoch from now on")

    def _close_but(self, phase: Phase) -> None:
        """Let go of tables that no phase from this one on uses."""
        names = {cut.name for p, cut in self.cuts.items() if p.stop >= phase.stop and isinstance(cut, Cut)}
        for place in [place for place in self._tables if place[0] not in names]:
            self._tables.pop(place).close()

    def close(self) -> None:
        """Let others remove the tables."""
        for table in self._tables.values():
            table.close()
        self._tables.clear()

    @cached_property
    def _store(self) -> Store:
        config = self.session.plan.config.cache
        return Store(activation_folder(config.dir), config.limit)

    def _key(self, cut: Cut, split: SplitName, view: int) -> str:
        """Digits that change with anything that a row's bytes depend on."""
        plan = self.session.plan
        state = [(name, str(t.dtype), list(t.shape), self._digest(name, t)) for name, t in self.cutter.state(cut.name)]
        drawn = [plan.config.seed, view, repr(plan.augmentation)] if view != PLAIN else []
        facts = {
            "images": self._images(split),
            "transform": [asdict(plan.preprocessing), drawn],
            "code": self.cutter.code(cut.name),
            "state": state,
            "arithmetic": [cut.dtype, self.session.compute],
            "threads": torch.get_num_threads(),
            "versions": [torch.__version__, torchvision.__version__],
        }
        text = json.dumps(facts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def _digest(self, name: str, tensor: Tensor) -> str:
        known = (name, tensor._version)
        if known not in self._digests:
            content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            self._digests[known] = hashlib.sha256(content.data).hexdigest()
        return self._digests[known]

    def _images(self, split: SplitName) -> str:
        known = (split, -1)
        if known not in self._digests:
            self._digests[known] = images_digest(self.session.split(split))
        return self._digests[known]


class Cached:
    """Batches of rows in place of images, in the order of a sampler; a table is filled where it isn't yet.

    Attributes:
        batch_sampler: Gives lists of keys.
        views: An image's key, epoch and draw, says which of so many views it is.
    """

    def __init__(self, cache: Activations, cut: Cut, split: SplitName, sampler: Any, views: int) -> None:
        self._cache, self._cut, self._split = cache, cut, split
        self.batch_sampler = sampler
        self._views = views
        self._labels = torch.tensor(cache.session.split(split).labels, dtype=torch.int64)

    def __iter__(self) -> Iterator[Batch]:
        every = list(self.batch_sampler)
        # All processes need the same views, whichever of them their own images are of.
        views = self.batch_sampler.views(self._views) if self._views > 1 else {PLAIN}
        tables = self._cache.tables(self._cut, self._split, views)
        if tables is None:
            lists = [[((key[0] + key[2]) % self._views, key[1], 0) for key in keys] for keys in every]
            yield from self._cache.computed(self._cut, self._split, lists)
            return
        faults = self._cache.faults[self._split]
        for keys in every:
            yield self._batch(keys, tables, faults)

    def _batch(self, keys: Sequence[Key], tables: Mapping[int, Table], faults: Mapping[int, Fault]) -> Batch:
        whole = [key for key in keys if key[1] not in faults] if faults else keys
        indices = torch.tensor([key[1] for key in whole], dtype=torch.int64)
        views = [(key[0] + key[2]) % self._views for key in whole]
        if len(set(views)) <= 1:
            rows = tables[views[0] if views else PLAIN].take(indices)
        else:
            rows = torch.stack([tables[view].take(index) for view, index in zip(views, indices, strict=True)])
        lost = tuple(faults[key[1]] for key in keys if key[1] in faults) if faults else ()
        return Batch(rows, self._labels[indices], indices, lost)


class Views(data.Samples):
    """Samples whose keys begin with the view."""

    def __init__(
        self,
        split: Split,
        plain: transforms.Transform,
        augmented: transforms.Transform,
        seed: int,
        pixels: data.Pixels | None,
    ) -> None:
        super().__init__(split, plain, seed, pixels)
        self.augmented = augmented

    def transform_of(self, key: Key) -> transforms.Transform:
        return self.transform if key[0] == PLAIN else self.augmented


def _by_row(rows: range, batch: Batch) -> dict[int, Fault]:
    """Faults of a batch by the row that they are of."""
    return dict(zip(sorted(set(rows) - set(batch.indices.tolist())), batch.faults, strict=True))


def _cut(cutter: Cutter, session: Session, trainable: frozenset[str]) -> Cut | str:
    plan = session.plan
    if len(trainable) == len(plan.schedule.groups):
        return "everything trains"
    modes = set_trainable(session.network, plan.schedule.groups, trainable, plan.config.train_bn)
    try:
        return cutter.cut(modes)
    except NoCutError as error:
        return str(error)


def _size(cut: Cut) -> CutSize:
    return CutSize(cut.name, cut.depth, torch.Size(cut.shape).numel() * cut.dtype.itemsize)


def _epochs(phase: Phase) -> str:
    first, last = phase.start + 1, phase.stop
    return f"epoch {first}" if first == last else f"epochs {first} to {last}"
