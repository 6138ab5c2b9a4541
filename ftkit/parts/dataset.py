"""Labelled images, untransformed, in up to three splits."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from ftkit.errors import RequestError, nearest

if TYPE_CHECKING:
    from PIL.Image import Image

SplitName = Literal["train", "val", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = get_args(SplitName)
SPLIT_SYNONYMS: Mapping[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""What people call their splits, in lower case."""


@dataclass(frozen=True)
class Split:
    """A sequence of `(image, label)`; labels and names are known without opening an image.

    Attributes:
        names: One a sample, unique and stable: a path relative to the data, or an index. They appear
            in messages and predictions and go into the data's fingerprint.
        labels: Index into `Splits.classes`, one a sample.
        open: Given a sample's position, returns its image in any PIL mode, upright. It is called in
            worker processes, so it must be picklable.
        blocks: For data that lies far away, the number of the part that each sample is in, where all of a part
            come together. Training mixes a few parts at a time then, so that each is fetched once an epoch.
        stamp: Text that changes when an image does, and that no other data has, where the data tells without images
            being opened; `ftkit.api.file_stamp` gives such text for a file. Size and modification time don't do.
    """

    names: Sequence[str]
    labels: Sequence[int]
    open: Callable[[int], Image] = field(repr=False)
    blocks: Sequence[int] | None = field(default=None, repr=False)
    stamp: str | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        return self.open(index), self.labels[index]

    def subset(self, indices: Sequence[int]) -> Split:
        """The samples at `indices`, in that order."""
        return Split(
            [self.names[i] for i in indices],
            [self.labels[i] for i in indices],
            _Reindexed(self.open, tuple(indices)),
            None if self.blocks is None else [self.blocks[i] for i in indices],
            self.stamp,
        )

    def source(self, index: int) -> tuple[Callable[[int], Image], int]:
        """What opens a sample in the end, below any subsets, and the position that it is given."""
        opens: Callable[[int], Image] = self.open
        while isinstance(opens, _Reindexed):
            index = opens.indices[index]
            opens = opens.open
        return opens, index


@dataclass(frozen=True)
class _Reindexed:
    open: Callable[[int], Image]
    indices: tuple[int, ...]

    def __call__(self, index: int) -> Image:
        return self.open(self.indices[index])


@dataclass(frozen=True)
class Splits:
    """What a dataset loads to.

    Attributes:
        classes: Class names in label order. They come from the training split.
        train: To learn from.
        val: To choose by; where it is None, it is split off `train`, stratified and seeded.
        test: To report on, untouched until then; may be None.
        notes: Lines worth telling the user, such as files passed over.
        class_mapping: Where classes were chosen or mapped by the config: by class of the data, what it counts as,
            None where its images aren't used. Datasets leave it empty.
    """

    classes: tuple[str, ...]
    train: Split | None
    val: Split | None = None
    test: Split | None = None
    notes: tuple[str, ...] = ()
    class_mapping: Mapping[str, str | None] = field(default_factory=dict)

    def get(self, name: SplitName) -> Split | None:
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def present(self) -> Iterator[tuple[SplitName, Split]]:
        """The splits that exist, with their names."""
        for name in SPLIT_NAMES:
            split = self.get(name)
            if split is not None:
                yield name, split

    def fingerprint(self) -> str:
        """Sixteen hex digits that change when a class, a sample's name, label or block does."""
        digest = hashlib.sha256("\0".join(self.classes).encode("utf-8", "surrogatepass"))
        for name, split in self.present():
            digest.update(f"\n{name}\n".encode())
            for sample, label in zip(split.names, split.labels, strict=True):
                digest.update(f"{sample}\0{label}\n".encode("utf-8", "surrogatepass"))
            if split.blocks is not None:
                # The order of training follows them.
                digest.update(",".join(map(str, split.blocks)).encode())
        return digest.hexdigest()[:16]


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in label order: by number where all are whole numbers (1, 2, 10), else as text."""
    names = set(names)
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def relabel(split: Split, its_classes: Sequence[str], classes: Sequence[str], where: str) -> Split:
    """The split with labels that index `classes` instead of `its_classes`, matched by name.

    Folders and files number their classes by what they hold, so the same number need not mean the same
    class in two of them. A class of `its_classes` without a sample is of no concern.

    Args:
        where: How messages call the split: a path, or its name.

    Raises:
        RequestError: A sample is of a class that `classes` lacks, or its label is the number of none.
    """
    wrong = next((label for label in set(split.labels) if not 0 <= label < len(its_classes)), None)
    if wrong is not None:
        sample = split.names[list(split.labels).index(wrong)]
        raise RequestError(f"{where}: the label of {sample} is {wrong}, and classes are 0 to {len(its_classes) - 1}")
    known = {name: label for label, name in enumerate(classes)}
    for name in (its_classes[label] for label in sorted(set(split.labels))):
        if name not in known:
            close = nearest(name, known)
            few = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
            raise RequestError(
                f"{where}: class {name!r} is not among the training classes: {few}",
                f"did you mean {close!r}?" if close else "add training images of it, or leave it out",
            )
    mapping = [known.get(name, -1) for name in its_classes]
    return replace(split, labels=[mapping[label] for label in split.labels])


def join_splits(
    parts: Mapping[SplitName, tuple[Split, Sequence[str]]],
    where: Mapping[SplitName, str],
    notes: tuple[str, ...] = (),
    for_training: bool = True,
) -> Splits:
    """Splits whose labels index the same classes: those of train, or of the first split where there is no train.

    Args:
        parts: Each split with its own classes in label order; at least one.
        where: How messages call each split.
        for_training: Refuse images of a class that train lacks. Otherwise such classes are appended, for a trained
            model that may have them.

    Raises:
        RequestError: A sample is of a class that train lacks.
    """
    present = [name for name in SPLIT_NAMES if name in parts]
    classes = list(parts[present[0]][1])
    if not for_training:
        used = (its[label] for split, its in map(parts.__getitem__, present) for label in sorted(set(split.labels)))
        classes = list(dict.fromkeys([*classes, *used]))
    found = {name: relabel(*parts[name], classes, where[name]) for name in present}
    return Splits(tuple(classes), found.get("train"), found.get("val"), found.get("test"), notes)


class Dataset(ABC):
    """A source of labelled images. Subclasses are frozen dataclasses; their fields are the options."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    @abstractmethod
    def load(self) -> Splits:
        """Find the samples; images are opened later.

        Raises:
            RequestError: The data isn't there or can't be used.
        """

    def load_for_evaluation(self) -> Splits:
        """Find the samples for a model that is trained already, which may know classes that the training split lacks.

        The classes of the result are matched with the model's by name, so that their order is of no concern. Unless a
        subclass says otherwise, it is what `load` gives, with what that refuses.
        """
        return self.load()
