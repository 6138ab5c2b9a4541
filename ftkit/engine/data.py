"""From a split to batches of tensors: our own order, shares and seeds, so that resuming is exact."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import util
from multiprocessing.sharedctypes import RawValue
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ftkit.engine.pixels import sample_pixels
from ftkit.engine.seeds import derive
from ftkit.engine.transforms import Transform
from ftkit.errors import FtkitError, one_line
from ftkit.images import UnreadableImage, sample_name
from ftkit.spec.batches import Batches
from ftkit.spec.dataset import Split

if TYPE_CHECKING:
    from ftkit.engine.devices import Compute


@dataclass(frozen=True)
class Fault:
    """Why a file couldn't be read. Errors lose their type on the way out of a worker; this doesn't."""

    file: str
    reason: str


@dataclass
class Batch:
    """What could be read of a batch, and what couldn't.

    Images float32 `(b, channels, size, size)`, channels last in memory, labels and positions in the split int64 `(b,)`.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    faults: tuple[Fault, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def pin_memory(self) -> Batch:
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.indices.pin_memory(), self.faults)

    def to(self, compute: Compute) -> Batch:
        labels, indices = (values.to(compute.device, non_blocking=True) for values in (self.labels, self.indices))
        return Batch(compute.take(self.images), labels, indices, self.faults)

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.images, self.labels, self.indices))


@dataclass(frozen=True)
class _Sample:
    image: Tensor
    label: int
    index: int


_ONE_DRAWS = Lock()

Pixels = Callable[[int, int], Tensor]

Key = tuple[int, int, int]
"""Which sample is wanted: epoch, index, and how many times the epoch has had that index before."""


class Samples(Dataset["_Sample | Fault"]):
    """Transformed samples by key.

    Random transforms draw from torch's generator, seeded here by the key, so that a sample is the same in
    whichever process, and after whatever else, it is made, and one that an epoch has twice differs.

    Args:
        pixels: Gives an image's pixels by its position and the channels wanted; by default it is read anew each time.
    """

    def __init__(self, split: Split, transform: Transform, seed: int = 0, pixels: Pixels | None = None) -> None:
        self.split = split
        self.transform = transform
        self.seed = seed
        self.pixels = pixels or partial(sample_pixels, split)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: Key) -> _Sample | Fault:
        image, rest = self._made(key, nullcontext())
        if image is None or isinstance(rest, Fault):
            assert isinstance(rest, Fault), "what has no image has a fault"
            return rest
        return _Sample(image, *rest)

    def read(self, key: Key) -> tuple[Tensor | None, tuple[int, int] | Fault]:
        """A sample's image with its label and index, for threads; torch's generator is theirs in turns."""
        return self._made(key, _ONE_DRAWS)

    def _made(self, key: Key, drawing: AbstractContextManager[Any]) -> tuple[Tensor | None, tuple[int, int] | Fault]:
        transform, index = self.transform_of(key), key[1]
        try:
            pixels = self.pixels(index, transform.channels)
        except UnreadableImage as error:
            file = sample_name(self.split, index)
            return None, Fault(file, error.message.removeprefix(one_line(f"{file}: ")))
        with drawing:
            torch.default_generator.manual_seed(derive(self.seed, "augment", *key))
            return transform(pixels), (self.split.labels[index], index)

    def transform_of(self, key: Key) -> Transform:
        """What a sample goes through."""
        return self.transform


BLOCKS_AT_A_TIME = 16
"""Blocks whose images are mixed. Parquet files of images have about a hundred images a block."""


class TrainingOrder(Sampler[list[Key]]):
    """Batches of keys for one process, from any step of any epoch on.

    The order is a permutation seeded by the epoch, the same in all processes. With weights it is as many
    images drawn with replacement, each as often as its weight has it. With blocks, those are mixed, and then the
    images of so many blocks at a time.

    Args:
        weights: One for each image, in any unit.
        blocks: The number of each image's block, from 0.
    """

    def __init__(
        self,
        batches: Batches,
        seed: int,
        rank: int = 0,
        weights: Sequence[float] | None = None,
        blocks: Sequence[int] | None = None,
    ) -> None:
        self.batches = batches
        self.seed = seed
        self.rank = rank
        self.weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        self.blocks = None if blocks is None else torch.tensor(blocks)
        self.epoch = 0
        self.first_step = 0

    def start(self, epoch: int, step: int = 0) -> None:
        """Go to a step of an epoch; the next iteration begins there."""
        self.epoch, self.first_step = epoch, step

    def indices(self) -> Tensor:
        """The images of the whole epoch, int64 `(images,)`."""
        generator = torch.Generator().manual_seed(derive(self.seed, "order", self.epoch))
        if self.weights is None:
            order = torch.randperm(self.batches.images, generator=generator)
        else:
            order = torch.multinomial(self.weights, self.batches.images, replacement=True, generator=generator)
        if self.blocks is None:
            return order
        places = torch.randperm(int(self.blocks.max()) + 1, generator=generator)
        return order[(places[self.blocks[order]] // BLOCKS_AT_A_TIME).argsort(stable=True)]

    def keys(self) -> list[Key]:
        """The same as keys, which tell one draw of an image from another."""
        drawn: Counter[int] = Counter()
        found: list[Key] = []
        for index in self.indices().tolist():
            found.append((self.epoch, index, drawn[index]))
            drawn[index] += 1
        return found

    def __iter__(self) -> Iterator[list[Key]]:
        order = self.keys()
        for step in range(self.first_step, self.batches.steps):
            for part in range(self.batches.accumulate):
                yield [order[i] for i in self.batches.batch(step, part, self.rank)]

    def __len__(self) -> int:
        return (self.batches.steps - self.first_step) * self.batches.accumulate

    def views(self, count: int) -> set[int]:
        """Which of so many views of the images the epoch has, over all processes."""
        most = int(self.indices().bincount().max()) if self.weights is not None else 1
        return {(self.epoch + drawn) % count for drawn in range(most)}


class Share(Sampler[list[Key]]):
    """One process's share of a split, in order: every `world`-th sample, each exactly once overall."""

    def __init__(self, size: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.indices = range(rank, size, world)
        self.batch_size = batch_size
        self.rounds = math.ceil(math.ceil(size / world) / batch_size)
        """Batches of the process that has most."""

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield [(0, i, 0) for i in self.indices[start : start + self.batch_size]]

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)


def training_loader(
    samples: Samples, order: TrainingOrder, workers: int, pin: bool = False, shape: Sequence[int] = (0,)
) -> DataLoader[_Sample | Fault]:
    """Batches in training order; iterate anew for each epoch, after `order.start`.

    Args:
        shape: Of one image, `(channels, size, size)`; a batch without an image has it too.
    """
    return _loader(samples, order, workers, pin, shape)


def evaluation_loader(
    split: Split,
    transform: Transform,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
    pin: bool = False,
    pixels: Pixels | None = None,
) -> DataLoader[_Sample | Fault]:
    """Batches of one process's share of a split, each sample once."""
    return _loader(Samples(split, transform, pixels=pixels), Share(len(split), batch_size, rank, world), workers, pin)


START = "fork" if sys.platform == "linux" else None
"""How workers start: Python's own default there until 3.13. Those of its later one, a fork server, live on when the run
is killed, and take seconds to start."""


def resolve_workers(workers: int | Literal["auto"], images: int, world: int = 1) -> int:
    """Worker processes for a loader: one less than the cores that a process has, none for tiny splits.

    Starting a worker costs about as much as reading a few hundred images.
    """
    if workers != "auto":
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return 0 if images < 64 else max(1, min(8, cores // world - 1))


def _loader(
    samples: Samples, order: Sampler[list[Key]], workers: int, pin: bool, shape: Sequence[int] = (0,)
) -> DataLoader[_Sample | Fault]:
    return DataLoader(
        samples,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=partial(_collate, tuple(shape)),
        pin_memory=pin,
        persistent_workers=workers > 0,
        worker_init_fn=partial(_quiet_worker, _leaving(os.getpid())) if workers else None,
        prefetch_factor=4 if workers else None,
        multiprocessing_context=START if workers else None,
    )


def checked(batch: Batch) -> Batch:
    """The batch, or the error of the first file that it lacks."""
    require_whole(batch.faults)
    return batch


def require_whole(found: Iterable[object]) -> None:
    """Raise the first fault among what was read.

    Raises:
        FtkitError: Names the file.
    """
    for fault in found:
        if isinstance(fault, Fault):
            raise FtkitError(f"{fault.file}: {fault.reason}", "mend or remove the file, then run this again")


def _collate(shape: tuple[int, ...], samples: Sequence[_Sample | Fault]) -> Batch:
    whole = [s for s in samples if isinstance(s, _Sample)]
    images = torch.empty(0, *shape)
    if whole:
        shape = tuple(whole[0].image.shape)
        layout = torch.channels_last if len(shape) == 3 else torch.contiguous_format
        images = torch.empty(len(whole), *shape, memory_format=layout)
        torch.stack([s.image for s in whole], out=images)
    return Batch(
        images,
        torch.tensor([s.label for s in whole], dtype=torch.int64),
        torch.tensor([s.index for s in whole], dtype=torch.int64),
        tuple(s for s in samples if isinstance(s, Fault)),
    )


def _quiet_worker(leaving: Any, worker: int) -> None:
    """Signals that stop a run reach its whole process group, but are the main process's business alone.

    It still needs its last batches for a whole checkpoint. Only when it leaves itself, which `leaving` tells,
    does SIGTERM end a worker: Python sends it then, and would wait for ever for one that ignored it.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if leaving.value else None)


@cache
def _leaving(process: int) -> Any:
    """Whether this process, by its number, is about to end; shared with its workers alone."""
    leaving = RawValue("b", 0)
    # Not by atexit, which the processes of multiprocessing pass over: theirs is called before workers are ended.
    util.Finalize(None, setattr, args=(leaving, "value", 1), exitpriority=100)
    return leaving
