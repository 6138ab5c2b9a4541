"""Versions of an image that values are kept of, and the samples that they are computed from."""

from __future__ import annotations

from ftkit.engine.input import data, transforms
from ftkit.engine.input.order import Key
from ftkit.spec.dataset import Split

PLAIN = 0
"""The view that evaluation sees; the others are augmented."""


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
