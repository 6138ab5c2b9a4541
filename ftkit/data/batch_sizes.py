"""How the images of an epoch are divided into optimizer steps, batches and the shards of several processes.

All parts are even: 65 images at batch size 32 give three steps of 22, 22 and 21, never a step of a single image,
which BatchNorm can't train on. Everything is a function of the counts, so a run can resume at any step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ftkit.errors import RequestError

BATCH_SIZE = 32
"""Images per batch by default; with `auto`, images per step, process and accumulation step."""


@dataclass(frozen=True)
class Batches:
    """The batches of one epoch.

    Attributes:
        images: Images per epoch.
        batch_size: Maximum images per batch of one process.
        accumulate: Gradient accumulation: batches per optimizer step.
        world: Number of processes.
    """

    images: int
    batch_size: int
    accumulate: int = 1
    world: int = 1

    def __post_init__(self) -> None:
        if self.images < 1:
            raise RequestError("the dataset has no training images", "give a dataset with training images")

    @property
    def effective(self) -> int:
        """Maximum images per optimizer step, over all processes."""
        return self.batch_size * self.accumulate * self.world

    @property
    def steps(self) -> int:
        """Optimizer steps per epoch."""
        return math.ceil(self.images / self.effective)

    def step(self, index: int) -> range:
        """Positions in the epoch's order that step `index` uses, over all processes."""
        return even_part(range(self.images), index, self.steps)

    def batch(self, step: int, part: int, rank: int = 0) -> range:
        """Positions of batch `part` of a step in process `rank`; may be empty."""
        return even_part(self.step(step), part * self.world + rank, self.accumulate * self.world)

    @property
    def smallest(self) -> int:
        """Minimum images per batch of one process."""
        return self.images // self.steps // (self.accumulate * self.world)

    @property
    def largest(self) -> int:
        """Maximum images per batch of one process, which may be fewer than `batch_size`."""
        return math.ceil(math.ceil(self.images / self.steps) / (self.accumulate * self.world))


def even_part(whole: range, index: int, parts: int) -> range:
    """Part `index` of `parts` parts, whose lengths differ by at most one."""
    return whole[len(whole) * index // parts : len(whole) * (index + 1) // parts]
