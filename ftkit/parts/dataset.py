"""Labelled images, untransformed, in up to three splits."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from ftkit.errors import RequestError, nearest
from ftkit.files.packed_text import PackedText
from ftkit.parts.label_sets import Label, Labels, LabelSets, count_classes, label_set

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
"""Common names of splits, in lower case."""


@dataclass(frozen=True)
class Split:
    """A sequence of `(image, label)`; labels and names are available without opening an image.

    Attributes:
        names: One per sample, unique and stable: a path relative to the data, or an index. They appear in messages
            and predictions, and are part of the data's fingerprint.
        labels: Index into `Splits.classes`, one per sample. In per multi-label dataset, which may have any number of
            classes per sample, `LabelSets`; per dataset may also return per list of tuples, which `ftkit` converts.
        open: Returns the image at a position, in any PIL mode, upright. It is called in worker processes, so it must
            be picklable.
        blocks: The number of the block (shard, row group) of each sample, from 0, for remote data. A block is fetched
            as a whole, so training mixes a few blocks at a time and fetches each block once per epoch.
        stamp: Text that changes whenever an image changes and that is unique to this data, if it is available without
            opening images; `ftkit.api.file_stamp` returns such text for a file. Size and modification time are not
            enough.
    """

    names: Sequence[str]
    labels: Labels
    open: Callable[[int], Image] = field(repr=False)
    blocks: Sequence[int] | None = field(default=None, repr=False)
    stamp: str | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image, Label]:
        return self.open(index), self.labels[index]

    @property
    def multilabel(self) -> bool:
        """Whether samples may have any number of classes."""
        return isinstance(self.labels, LabelSets)

    def subset(self, indices: Sequence[int]) -> Split:
        """The samples at `indices`, in that order."""
        labels, names = self.labels, self.names
        opens, places = self.sources()
        return Split(
            names.take(indices) if isinstance(names, PackedText) else [names[i] for i in indices],
            labels.take(indices) if isinstance(labels, LabelSets) else [labels[i] for i in indices],
            _Reindexed(opens, array("q", (places[i] for i in indices))),
            None if self.blocks is None else [self.blocks[i] for i in indices],
            self.stamp,
        )

    def sources(self) -> tuple[Callable[[int], Image], Sequence[int]]:
        """The original opener, below any subset, and the position of each sample to call it with."""
        if isinstance(self.open, _Reindexed):
            return self.open.opens, self.open.places
        return self.open, range(len(self))

    def source(self, index: int) -> tuple[Callable[[int], Image], int]:
        """The original opener of a sample, below any subset, and the position to call it with."""
        opens, places = self.sources()
        return opens, places[index]


@dataclass(frozen=True)
class _Reindexed:
    """Opens samples of a subset.

    Attributes:
        opens: The opener of the whole split.
        places: The position of each sample in the whole split.
    """

    opens: Callable[[int], Image]
    places: array[int]

    def __call__(self, index: int) -> Image:
        return self.opens(self.places[index])


@dataclass(frozen=True)
class Splits:
    """The result of loading a dataset.

    Attributes:
        classes: Class names in label order, from the training split.
        train: The images for training; may be None.
        val: The images for model selection; if None, a stratified part of `train` is held out.
        test: The images for the final evaluation; may be None.
        notes: Lines for the user, such as a count of skipped files.
        class_mapping: If the config selects or maps classes: class of the data -> class of the model, or None for a
            class that isn't used. Datasets leave it empty.
    """

    classes: tuple[str, ...]
    train: Split | None
    val: Split | None = None
    test: Split | None = None
    notes: tuple[str, ...] = ()
    class_mapping: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def multilabel(self) -> bool:
        """Whether samples may have any number of classes."""
        return any(split.multilabel for _, split in self.present())

    def get(self, name: SplitName) -> Split | None:
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def present(self) -> Iterator[tuple[SplitName, Split]]:
        """The splits that exist, with their names."""
        for name in SPLIT_NAMES:
            split = self.get(name)
            if split is not None:
                yield name, split

    def fingerprint(self) -> str:
        """16 hex digits that change whenever a class or a sample's name, label or block changes."""
        digest = hashlib.sha256("\0".join(self.classes).encode("utf-8", "surrogatepass"))
        for name, split in self.present():
            digest.update(f"\n{name}\n".encode())
            labels: Sequence[Label] = split.labels
            for sample, label in zip(split.names, labels, strict=True):
                text = label if isinstance(label, int) else ",".join(map(str, label))
                digest.update(f"{sample}\0{text}\n".encode("utf-8", "surrogatepass"))
            if split.blocks is not None:
                # The training order depends on them.
                digest.update(",".join(map(str, split.blocks)).encode())
        return digest.hexdigest()[:16]


def merge_subsets(one: Split, other: Split) -> Split:
    """The samples of two subsets of one split, in the order of that split; they have no sample in common."""
    opens, first = one.sources()
    places = (*first, *other.sources()[1])
    order = sorted(range(len(places)), key=places.__getitem__)
    names, labels = [*one.names, *other.names], [*one.labels, *other.labels]
    blocks = None if one.blocks is None or other.blocks is None else [*one.blocks, *other.blocks]
    merged: Any = [labels[i] for i in order]
    return Split(
        [names[i] for i in order],
        LabelSets(merged, one.labels.num_classes) if isinstance(one.labels, LabelSets) else merged,
        _Reindexed(opens, array("q", (places[i] for i in order))),
        None if blocks is None else [blocks[i] for i in order],
        one.stamp,
    )


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in label order: numerical if all are whole numbers (1, 2, 10), else alphabetical."""
    names = set(names)
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def relabel(split: Split, its_classes: Sequence[str], classes: Sequence[str], where: str) -> Split:
    """The split with labels that index `classes` instead of `its_classes`, matched by name.

    Two splits of a dataset may number the same classes differently. A class of `its_classes` without a sample may be
    missing from `classes`.

    Args:
        where: Name of the split in messages, such as a path.

    Raises:
        RequestError: A label is out of range, or a sample's class is missing from `classes`.
    """
    used = sorted(count_classes(split.labels))
    wrong = next((label for label in used if not 0 <= label < len(its_classes)), None)
    if wrong is not None:
        labels: Sequence[Label] = split.labels
        sample = next(name for name, label in zip(split.names, labels, strict=True) if wrong in label_set(label))
        raise RequestError(f"{where}: the label of {sample} is {wrong}, but labels are 0 to {len(its_classes) - 1}")
    known = {name: label for label, name in enumerate(classes)}
    for name in (its_classes[label] for label in used):
        if name not in known:
            close = nearest(name, known)
            few = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
            raise RequestError(
                f"{where}: class {name!r} is not among the training classes: {few}",
                f"did you mean {close!r}?" if close else "add training images of this class, or remove it",
            )
    mapping = [known.get(name, -1) for name in its_classes]
    if isinstance(split.labels, LabelSets):
        return replace(split, labels=split.labels.mapped(mapping, len(classes)))
    return replace(split, labels=[mapping[label] for label in split.labels])


def join_splits(
    parts: Mapping[SplitName, tuple[Split, Sequence[str]]],
    where: Mapping[SplitName, str],
    notes: tuple[str, ...] = (),
    for_training: bool = True,
) -> Splits:
    """Join splits so that all labels index the classes of train, or of the first split if there is no train.

    Args:
        parts: Each split with its own classes in label order; at least one.
        where: Name of each split in messages.
        for_training: Refuse images of a class that train doesn't have. Otherwise such classes are appended, for a
            trained model that may have them.

    Raises:
        RequestError: With `for_training`, a sample's class is missing from train.
    """
    present = [name for name in SPLIT_NAMES if name in parts]
    classes = list(parts[present[0]][1])
    if not for_training:
        used = (
            its[label]
            for split, its in map(parts.__getitem__, present)
            for label in sorted(count_classes(split.labels))
        )
        classes = list(dict.fromkeys([*classes, *used]))
    found = {name: relabel(*parts[name], classes, where[name]) for name in present}
    return Splits(tuple(classes), found.get("train"), found.get("val"), found.get("test"), notes)


class Dataset(ABC):
    """A source of labelled images. Subclasses are frozen dataclasses; their fields are the options.

    Attributes:
        layout_options: The options that describe the form of the data and not its place, such as the name of the label
            column. A model card has their values, for the evaluation of the model on other data.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    layout_options: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def load(self) -> Splits:
        """List the samples; images are opened later.

        Raises:
            RequestError: The data is missing or can't be used.
        """

    def load_for_evaluation(self) -> Splits:
        """List the samples for the evaluation of a trained model, where val and test may have classes of their own.

        Classes are matched with those of the model by name, so their order doesn't matter. By default the same as
        `load`.
        """
        return self.load()
