"""Stratified sampling of images with several labels each; images without a label are treated as one more class.

It is iterative stratification (Sechidis, Tsoumakas and Vlahavas, 2011): the class with the fewest remaining images is
distributed first, and its images count for their other classes too. For two subsets and images in random order, the
rule fixes how many of a class's remaining images are taken, so each class is distributed in one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from ftkit.parts.label_sets import LabelSets

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]


def split_label_sets(labels: LabelSets, fraction: float, seed: int) -> list[int]:
    """Positions to take, ascending, so that about the same fraction of each class is taken.

    Each class of two or more images has at least one image taken and one left, if the label sets permit it. With one
    label per image, the result is that of `ftkit.data.sampling.stratified_split`.
    """
    import numpy as np

    table = _table(labels, seed)
    limit = np.maximum(table.sizes - 1, 0)
    wanted = np.clip(np.rint(table.sizes * fraction).astype(np.int64), np.minimum(1, limit), limit)
    taken = _distribute(table, wanted)
    _fill_empty_sides(table, taken)
    found: list[int] = taken.nonzero()[0].tolist()
    return found


def stratified_folds(labels: LabelSets, folds: int, seed: int) -> list[list[int]]:
    """The positions of all images in `folds` parts of about the same size, with about the same fraction of each class.

    A class of two or more images has one outside each part, if the label sets permit it.
    """
    rest, found = list(range(len(labels))), list[list[int]]()
    for left in range(folds, 1, -1):
        taken = set(split_label_sets(labels.take(rest), 1 / left, seed))
        found.append([place for number, place in enumerate(rest) if number in taken])
        rest = [place for number, place in enumerate(rest) if number not in taken]
    return [*found, rest]


def sample_label_sets(labels: LabelSets, count: int, seed: int) -> list[int]:
    """Positions of `count` images with about the same fraction of each class, ascending.

    The sample is the start of a fixed order of all images, so a larger `count` gives a superset. Images that cover all
    classes come first, rare classes before others. The other images are halved by stratification again and again, and
    each first half comes before the second.

    Raises:
        ValueError: More than `count` images are needed to cover all classes; the argument is their number.
    """
    import numpy as np

    table = _table(labels, seed)
    cover = _cover(table)
    if len(cover) > count:
        raise ValueError(len(cover))
    found, rest = [np.array(cover, dtype=np.int64)], np.setdiff1d(np.arange(len(labels)), cover)
    missing = count - len(cover)
    while 0 < missing < len(rest):
        part = table.subset(rest)
        first = _distribute(part, (part.sizes + part.coins()) // 2)
        if first.all() or not first.any():
            rest = rest[part.keys.argsort()][:missing]
        elif first.sum() > missing:
            rest = rest[first]
        else:
            found.append(rest[first])
            rest, missing = rest[~first], missing - int(first.sum())
    return sorted(np.concatenate([*found, rest[:missing]]).tolist())


@dataclass(frozen=True)
class _Table:
    """Images and their classes.

    Attributes:
        offsets: Image `i` has the classes `values[offsets[i]:offsets[i + 1]]`, at least one.
        keys: A random number of each image; they define the random order.
        sizes: Number of images of each class; the last class is for images without a label.
        order: The images of each class in random order, class after class.
    """

    offsets: Ints
    values: Ints
    keys: NDArray[np.float64]
    sizes: Ints
    order: Ints

    def members(self, label: int) -> Ints:
        """The images of a class in random order."""
        end = int(self.sizes[: label + 1].sum())
        return self.order[end - int(self.sizes[label]) : end]

    def classes(self, images: Ints) -> Ints:
        """The classes of all of these images, image after image."""
        import numpy as np

        starts, lengths = self.offsets[images], self.offsets[images + 1] - self.offsets[images]
        places = (starts - lengths.cumsum() + lengths).repeat(lengths) + np.arange(lengths.sum())
        found: Ints = self.values[places]
        return found

    def count(self, images: Ints) -> Ints:
        """Number of these images in each class."""
        import numpy as np

        return np.bincount(self.classes(images), minlength=len(self.sizes))

    def subset(self, images: Ints) -> _Table:
        """The table of these images, numbered from 0."""
        lengths = self.offsets[images + 1] - self.offsets[images]
        return _sorted_table(lengths, self.classes(images), self.keys[images], len(self.sizes))

    def coins(self) -> Bools:
        """A random bit for each class, from the lower digits of a key."""
        import numpy as np

        found = np.zeros(len(self.sizes), dtype=np.bool_)
        there = self.sizes > 0
        found[there] = self.keys[self.order[(self.sizes.cumsum() - self.sizes)[there]]] * 2**20 % 1 < 0.5
        return found


def _table(labels: LabelSets, seed: int) -> _Table:
    import numpy as np

    draw = Random(seed).random
    keys = np.array([draw() for _ in range(len(labels))], dtype=np.float64)
    offsets, values = labels.to_arrays()
    lengths = np.diff(offsets)
    values = np.insert(values, offsets[:-1][lengths == 0], labels.num_classes)
    return _sorted_table(np.maximum(lengths, 1), values, keys, labels.num_classes + 1)


def _sorted_table(lengths: Ints, values: Ints, keys: NDArray[np.float64], classes: int) -> _Table:
    import numpy as np

    images = np.arange(len(lengths)).repeat(lengths)
    order = images[np.lexsort((images, keys[images], values))]
    offsets = np.concatenate([[0], lengths.cumsum()])
    return _Table(offsets, values, keys, np.bincount(values, minlength=classes), order)


def _distribute(table: _Table, wanted: Ints) -> Bools:
    """Which images to take, for a number of images wanted of each class."""
    import numpy as np

    wanted, remaining = wanted.copy(), table.sizes.copy()
    open_, taken = np.ones(len(table.keys), dtype=np.bool_), np.zeros(len(table.keys), dtype=np.bool_)
    while remaining.any():
        rarest = int(np.where(remaining > 0, remaining, np.iinfo(np.int64).max).argmin())
        members = table.members(rarest)
        members = members[open_[members]]
        chosen = members[: max(0, int(wanted[rarest]))]
        open_[members], taken[chosen] = False, True
        remaining -= table.count(members)
        wanted -= table.count(chosen)
    return taken


def _fill_empty_sides(table: _Table, taken: Bools) -> None:
    """For each class with all of its images on one side, move one to the other, unless that empties another class."""
    import numpy as np

    counts = np.stack([table.count((taken == side).nonzero()[0]) for side in (False, True)])
    for label in ((table.sizes[:-1] > 1) & (counts[:, :-1] == 0).any(axis=0)).nonzero()[0].tolist():
        if counts[:, label].all():
            continue  # An earlier move has filled it.
        source = int(counts[1, label] > 0)
        for image in table.members(label):
            classes = table.classes(image[None])
            if (counts[source, classes] > 1).all():
                counts[source, classes] -= 1
                counts[1 - source, classes] += 1
                taken[image] = not source
                break


def _cover(table: _Table) -> list[int]:
    """Images that together have all classes: for each class that isn't covered yet, rare ones first, the first one."""
    covered, found = set[int](), list[int]()
    for label in table.sizes.argsort(kind="stable").tolist():
        if table.sizes[label] and label not in covered:
            image = table.members(label)[:1]
            covered.update(table.classes(image).tolist())
            found += image.tolist()
    return found
