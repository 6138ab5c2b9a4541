"""Digits of which some have a wrong label."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

import ftkit
from tests.multilabel import write_table

COUNT = 300
WRONG = {f"{number:03d}.png": (number * 7) % 9 + 1 for number in range(0, COUNT, 20)}
"""Image -> how far its label is moved."""


def write_planted(folder: Path) -> Path:
    """300 digits and `digits.csv`, in which 15 have a wrong label, and `true.csv`. Returns the folder."""
    split = ftkit.plan(dataset="digits", backbone="lenet", device="cpu").splits.train
    assert split is not None
    rows, true = [("path", "label")], [("path", "label")]
    for place in range(COUNT):
        image, label = split[place]
        assert isinstance(image, Image.Image)
        assert isinstance(label, int)
        name = f"{place:03d}.png"
        image.save(folder / name)
        true.append((name, f"d{label}"))
        rows.append((name, f"d{(label + WRONG.get(name, 0)) % 10}"))
    write_table(folder / "digits.csv", rows)
    write_table(folder / "true.csv", true)
    return folder
