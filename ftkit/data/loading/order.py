"""The order of samples, as a function of epoch and step, and its shards for several processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Sampler

from ftkit.data.batch_sizes import Batches
from ftkit.data.loading.seeds import derive

Key = tuple[int, int, int]
"""A sample: epoch, index, and how many times the epoch has drawn that index before."""

BLOCKS_AT_A_TIME = 16
"""Blocks whose images are shuffled together. Parquet files of images have about a hundred images per block."""


class TrainingOrder(Sampler[list[Key]]):
    """Batches of keys for one process, starting at any step of any epoch.

    The order is a permutation seeded by the epoch, the same in all processes. With weights, images are drawn with
    replacement instead, with probabilities proportional to the weights. With blocks, blocks are shuffled, and images
    are shuffled within `BLOCKS_AT_A_TIME` blocks.

    Args:
        weights: One per image, of any scale.
        blocks: Block number of each image, from 0.
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
        """Set the epoch and the step at which the next iteration starts."""
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

    def _keys(self, order: Tensor, drawn: Tensor | None, positions: range) -> list[Key]:
        """The images at some positions of the epoch."""
        part = slice(positions.start, positions.stop)
        indices = order[part].tolist()
        before = [0] * len(indices) if drawn is None else drawn[part].tolist()
        return [(self.epoch, index, times) for index, times in zip(indices, before, strict=True)]

    def _drawn(self, order: Tensor) -> Tensor | None:
        """How many times the epoch has drawn each position's image before; None if it draws each image once."""
        if self.weights is None:
            return None
        images, places = order.sort(stable=True)
        starts = torch.searchsorted(images, images)
        drawn = torch.empty_like(places)
        drawn[places] = torch.arange(len(places)) - starts
        return drawn

    def __iter__(self) -> Iterator[list[Key]]:
        # Two tensors in place of a key for each image, since a million tuples take 150 MB.
        order = self.indices()
        drawn = self._drawn(order)
        for step in range(self.first_step, self.batches.steps):
            for part in range(self.batches.accumulate):
                yield self._keys(order, drawn, self.batches.batch(step, part, self.rank))

    def __len__(self) -> int:
        return (self.batches.steps - self.first_step) * self.batches.accumulate

    def variants(self, count: int) -> set[int]:
        """Which of `count` cached augmentations per image the epoch uses, over all processes."""
        most = int(self.indices().bincount().max()) if self.weights is not None else 1
        return {(self.epoch + drawn) % count for drawn in range(most)}


class Shard(Sampler[list[Key]]):
    """The shard of one process: every `world`-th sample in order, so that each is in exactly one shard.

    Attributes:
        empty: Whether the next iteration has no batches.
    """

    def __init__(self, size: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.indices = range(rank, size, world)
        self.batch_size = batch_size
        self.empty = False
        self.rounds = math.ceil(math.ceil(size / world) / batch_size)
        """Batches of the process with the largest shard."""

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, 0 if self.empty else len(self.indices), self.batch_size):
            yield [(0, i, 0) for i in self.indices[start : start + self.batch_size]]

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)
