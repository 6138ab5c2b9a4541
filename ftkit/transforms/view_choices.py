"""The choices of test-time augmentation; importing them imports no torch."""

from __future__ import annotations

from typing import Literal

Tta = Literal["none", "flip", "crops"]
"""The views of an image whose probabilities are averaged; `transforms.views` makes them."""
VIEWS: dict[Tta, int] = {"none": 1, "flip": 2, "crops": 10}
"""Number of views, with the mirror images."""
