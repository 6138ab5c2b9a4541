"""What a model's card keeps of its outputs for validation images, to compare other images with. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

POINTS = 200
"""Parts that the energies are divided into."""


@dataclass(frozen=True)
class ReferenceOutputs:
    """The outputs of a model for labelled images that it wasn't trained on.

    Attributes:
        source: What the images are.
        images: Number of these images.
        energies: Their energies at equally spaced ranks, ascending, from the smallest to the largest one.
        accuracy: Part of the images that are predicted rightly.
        threshold: The confidence below which as many of the images lie as are predicted wrongly.
    """

    source: str
    images: int
    energies: tuple[float, ...]
    accuracy: float
    threshold: float

    def check(self) -> str:
        """What is invalid in values that were read from a file; empty for valid ones."""
        values = (*self.energies, self.accuracy, self.threshold)
        if len(self.energies) < 2 or not all(map(math.isfinite, values)):
            return "fewer than two energies, or a number that isn't finite"
        return "" if list(self.energies) == sorted(self.energies) else "its energies aren't ascending"
