"""The handwritten digits of scikit-learn, which need no download."""

from __future__ import annotations

import csv
import gzip
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ftkit.api import Dataset, RequestError, Split, Splits, hookimpl, stratified_sample

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 8
BRIGHTEST = 16
VAL_IMAGES, TEST_IMAGES = 297, 500
SEED = 0
"""Seed of the splits, which don't depend on the seed of the run."""


@dataclass(frozen=True)
class Digits(Dataset):
    """1,797 handwritten digits of the UCI repository, grey, 8 x 8 pixels: 1,000 train, 297 val, 500 test.

    Attributes:
        margin: Black pixels added on each side. A digit fills its square here, while in MNIST it has a border of a
            fifth of its size; with 2 pixels the two datasets look alike.
    """

    margin: int = 2

    def load(self) -> Splits:
        if self.margin < 0:
            raise RequestError(f"dataset.margin is {self.margin}", "give 0 or more pixels")
        pixels, labels = read_digits()
        everything = range(len(labels))
        test = stratified_sample(labels, TEST_IMAGES, SEED)
        rest = sorted(set(everything).difference(test))
        val = [rest[i] for i in stratified_sample([labels[i] for i in rest], VAL_IMAGES, SEED)]
        train = sorted(set(rest).difference(val))
        whole = Split([f"digits/{i:04d}" for i in everything], labels, _Drawings(tuple(pixels), self.margin))
        return Splits(
            classes=tuple("0123456789"),
            train=whole.subset(train),
            val=whole.subset(val),
            test=whole.subset(test),
        )


@dataclass(frozen=True)
class _Drawings:
    """Opens digits.

    Attributes:
        pixels: 64 bytes per digit, row by row, 0 (black) to 16 (white).
        margin: Black pixels added on each side.
    """

    pixels: Sequence[bytes] = field(repr=False)
    margin: int

    def __call__(self, index: int) -> Image:
        from PIL import Image

        grey = bytes(round(value * 255 / BRIGHTEST) for value in self.pixels[index])
        canvas = Image.new("L", (SIDE + 2 * self.margin,) * 2)
        canvas.paste(Image.frombytes("L", (SIDE, SIDE), grey), (self.margin, self.margin))
        return canvas


def read_digits() -> tuple[list[bytes], list[int]]:
    """Pixels (64 values, 0 to 16) and label of each digit, in scikit-learn's order.

    They are read from the file inside the package, since importing scikit-learn takes seconds; if a version has it
    elsewhere, scikit-learn is imported.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise RequestError("dataset 'digits' needs scikit-learn, which is not installed", "pip install scikit-learn")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        return load_with_scikit_learn()
    with gzip.open(path, "rt", encoding="ascii", newline="") as file:
        rows = [[int(float(value)) for value in row] for row in csv.reader(file)]
    return [bytes(row[:-1]) for row in rows], [row[-1] for row in rows]


def load_with_scikit_learn() -> tuple[list[bytes], list[int]]:
    """The same as `read_digits`, with scikit-learn's loader."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return [bytes(row) for row in digits.data.astype(int).tolist()], digits.target.tolist()


@hookimpl
def ftkit_datasets() -> Mapping[str, type[Dataset]]:
    """The embedded digits."""
    return {"digits": Digits}
