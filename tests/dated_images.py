"""Images that only their content tells apart: files of one size and one time, which `touch -d` gives."""

from __future__ import annotations

import os
import time
from pathlib import Path

import PIL.Image

LONG_AGO = 1_600_000_000_000_000_000
"""Nanoseconds since 1970."""


def make_dated_images(folder: Path) -> Path:
    """Two classes in `train` and `val`."""
    for split, count in (("train", 12), ("val", 6)):
        for label, name in enumerate("ab"):
            for number in range(count):
                file = folder / split / name / f"{number}.bmp"
                file.parent.mkdir(parents=True, exist_ok=True)
                colour = ((200, 10 * number, 30), (30, 10 * number, 200))[label]
                PIL.Image.new("RGB", (32, 32), colour).save(file)
                os.utime(file, ns=(LONG_AGO, LONG_AGO))
    time.sleep(0.03)  # What changed just now isn't remembered yet.
    return folder
