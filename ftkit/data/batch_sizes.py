"""How an epoch's images are cut into optimizer steps, batches and the shares of several processes.

All cuts are even: 65 images at a batch size of 32 give three steps of 22, 22 and 21, never one of a single
image, which BatchNorm can't learn from. Everything is a function of the counts alone, so that a run can
start again at any step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ftkit.errors import RequestError


@dataclass(frozen=True)
class Batches:
    """The cut of one epoch.

    Attributes:
        images: Images an epoch.
        batch_size: Most images that one process takes at once.
        accumulate: Batches whose gradients make up one step.
        world: Number of processes.
    """

    images: int
    batch_size: int
    accumulate: int = 1
    world: int = 1

    def __post_init__(self) -> None:
        if self.images < 1:
            raise RequestError("there is no image to train on", "give a dataset with training images")

    @property
    def effective(self) -> int:
        """Most images that one optimizer step sees, over all processes."""
        return self.batch_size * self.accumulate * self.world

    @property
    def steps(self) -> int:
        """Optimizer steps an epoch."""
        return math.ceil(self.images / self.effective)

    def step(self, index: int) -> range:
        """Positions in the epoch's order that step `index` sees, over all processes."""
        return _part(range(self.images), index, self.steps)

    def batch(self, step: int, part: int, rank: int = 0) -> range:
        """Positions that process `rank` takes in batch `part` of a step; may be empty."""
        return _part(self.step(step), part * self.world + rank, self.accumulate * self.world)

    @property
    def smallest(self) -> int:
        """Fewest images that a process ever takes at once."""
        return self.images // self.steps // (self.accumulate * self.world)


def _part(whole: range, index: int, parts: int) -> range:
    """Part `index` of `parts` whose lengths differ by one at most."""
    return whole[len(whole) * index // parts : len(whole) * (index + 1) // parts]
