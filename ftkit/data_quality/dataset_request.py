"""The dataset that a command reads: all images of all splits as the data has them, without held-out images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftkit.builtin.datasets.csv_file import CsvFile
from ftkit.config.load import Resolved, build
from ftkit.data.class_selection import select_classes
from ftkit.errors import RequestError, nearest
from ftkit.parts.dataset import Dataset, Split, SplitName, Splits
from ftkit.parts.label_sets import Label, label_text
from ftkit.planning.run_data.run_splits import load_checked


@dataclass(frozen=True)
class LoadedData:
    """A dataset with its splits.

    Attributes:
        source: The path or name, for messages.
        splits: Each split may have classes of its own.
    """

    source: str
    dataset: Dataset
    splits: Splits

    @property
    def count(self) -> int:
        """Number of images of all splits."""
        return sum(len(split) for _, split in self.splits.present())

    def samples(self) -> Iterator[tuple[SplitName, Split, int]]:
        """All images of all splits, in the order of the splits."""
        for name, split in self.splits.present():
            for index in range(len(split)):
                yield name, split, index

    def rows(self) -> Iterator[tuple[SplitName, Split, slice]]:
        """Each split with the rows of its images, which are numbered in the order of `samples`."""
        start = 0
        for name, split in self.splits.present():
            yield name, split, slice(start, start + len(split))
            start += len(split)

    def place(self, row: int) -> tuple[SplitName, Split, int]:
        """The split of a row, and the position in it."""
        for name, split, rows in self.rows():
            if row < rows.stop:
                return name, split, row - rows.start
        raise IndexError(row)

    def labels(self) -> Iterator[Label]:
        """The label of each image, in the order of `samples`."""
        for _, split in self.splits.present():
            labels: Sequence[Label] = split.labels
            yield from labels

    def label_text(self, split: Split, index: int) -> str:
        """The class names of an image."""
        labels: Sequence[Label] = split.labels
        return label_text(labels[index], self.splits.classes)


def load_data(resolved: Resolved) -> LoadedData:
    """Load the dataset of a config, with its selection of classes.

    Raises:
        RequestError: The data is missing or can't be used.
    """
    config = resolved.config
    dataset: Dataset = build(resolved, "dataset")
    splits = load_checked(dataset, f"dataset {config.dataset.name!r}", for_training=False)
    places = resolved.where("classes"), resolved.where("label_map")
    splits = select_classes(splits, config.classes, config.label_map, places)
    return LoadedData(_source(config.dataset.name, config.dataset.options), dataset, splits)


def _source(name: str, options: Mapping[str, Any]) -> str:
    """The path of a dataset that has one, else its name."""
    place = next((options[key] for key in ("root", "path", "source") if options.get(key)), None)
    return name if place is None else str(place)


def table_column(data: LoadedData, column: str, flag: str) -> Mapping[str, str]:
    """The values of a further column of a CSV file, by the name of the image.

    Args:
        flag: The flag that names the column, for messages.

    Raises:
        RequestError: The data isn't a CSV file, or has no such column.
    """
    if not isinstance(data.dataset, CsvFile):
        raise RequestError(f"{flag} {column}: {data.source} has no columns", "columns are read from a CSV file")
    values = data.dataset.column(column)
    if values is None:
        header = data.dataset.header()
        close = nearest(column, header)
        raise RequestError(
            f"{flag} {column}: {data.source} has no such column",
            f"did you mean {close!r}?" if close else f"it has {', '.join(header)}",
        )
    return values
