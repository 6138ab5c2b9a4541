"""The samples that cached activations are computed from: several variants of each training image."""

from __future__ import annotations

from ftkit.data.loading import loader
from ftkit.data.loading.order import Key
from ftkit.parts.dataset import Split
from ftkit.transforms import pipeline

UNAUGMENTED = 0
"""The variant without augmentation, as in evaluation; the others are augmented."""


class AugmentedSamples(loader.Samples):
    """Samples whose keys start with the variant in place of the epoch."""

    def __init__(
        self,
        split: Split,
        plain: pipeline.Transform,
        augmented: pipeline.Transform,
        seed: int,
        pixels: loader.Pixels | None,
    ) -> None:
        super().__init__(split, plain, seed, pixels)
        self.augmented = augmented

    def transform_of(self, key: Key) -> pipeline.Transform:
        return self.transform if key[0] == UNAUGMENTED else self.augmented
