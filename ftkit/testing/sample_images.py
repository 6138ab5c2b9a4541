"""Small generated images of classes that a network can learn; the same on every call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

Layout = Mapping[str, "int | Mapping[str, int]"]
"""`{"train": {"ants": 6, "bees": 6}, "val": ...}`, or `{"ants": 6, "bees": 6}` without splits."""

COLOURS = ("crimson", "steelblue", "goldenrod", "seagreen", "orchid", "sienna", "darkcyan", "slategray")


def draw_image(kind: int, size: tuple[int, int], seed: str) -> Image:
    """A noisy RGB image with a shape whose form and colour depend on the class.

    Args:
        kind: The number of the class.
        size: Width and height in pixels.
        seed: Another seed gives another position and other noise.
    """
    from PIL import Image, ImageDraw

    rng = Random(seed)
    noise = Image.frombytes("RGB", size, rng.randbytes(size[0] * size[1] * 3))
    plain = Image.new("RGB", size, "white")
    left, top = rng.randrange(size[0] // 4), rng.randrange(size[1] // 4)
    box = (left, top, left + size[0] * 2 // 3, top + size[1] * 2 // 3)
    brush = ImageDraw.Draw(plain)
    shape = (brush.ellipse, brush.rectangle)[kind % 2]
    shape(box, fill=COLOURS[kind % len(COLOURS)])
    return Image.blend(plain, noise, 0.2)


def make_image_folder(root: Path, layout: Layout, size: tuple[int, int] = (40, 32)) -> Path:
    """Write a folder of small images, with one folder for each class, alternating JPEG and PNG.

    Args:
        layout: Number of images by class, or by split and class; 0 creates an empty folder.
        size: Width and height in pixels.
    """
    splits = {name: classes for name, classes in layout.items() if not isinstance(classes, int)}
    loose = {name: count for name, count in layout.items() if isinstance(count, int)}
    kinds = sorted({name for classes in splits.values() for name in classes} | set(loose))
    root.mkdir(parents=True, exist_ok=True)
    for split, classes in splits.items():
        (root / split).mkdir(exist_ok=True)
        _fill(root / split, classes, kinds, size)
    _fill(root, loose, kinds, size)
    return root


def _fill(folder: Path, classes: Mapping[str, int], kinds: list[str], size: tuple[int, int]) -> None:
    for name, count in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            suffix = ("jpg", "png")[number % 2]
            picture = draw_image(kinds.index(name), size, f"{folder.name}/{name}/{number}")
            picture.save(folder / name / f"{number:04d}.{suffix}")
