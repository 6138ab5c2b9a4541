"""Edits of the samples of a dataset, written as a CSV file that dataset `csv` reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from ftkit.builtin.datasets.csv_columns import Columns, find_columns
from ftkit.builtin.datasets.csv_file import CsvFile, read_rows
from ftkit.data.images import SampleFiles
from ftkit.data_quality.dataset_request import LoadedData
from ftkit.errors import RequestError
from ftkit.parts.label_sets import SEPARATOR, Label, label_set


@dataclass(frozen=True)
class Edits:
    """Changes of samples by name.

    Attributes:
        labels: New class names.
        removed: Samples that are left out.
        splits: The new split of each sample; None keeps the splits.
    """

    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    removed: AbstractSet[str] = frozenset()
    splits: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Sample:
    """A sample after the edits.

    Attributes:
        name: Its name in the dataset.
        file: The image file.
    """

    split: str
    name: str
    file: str
    labels: tuple[str, ...]


def edited_samples(data: LoadedData, edits: Edits) -> Iterator[Sample]:
    """The samples of a dataset after the edits.

    Raises:
        RequestError: The samples aren't files.
    """
    classes = data.splits.classes
    for name, split in data.splits.present():
        labels: Sequence[Label] = split.labels
        for sample, file, label in zip(split.names, SampleFiles(split), labels, strict=True):
            if file is None:
                raise RequestError(
                    f"{data.source}: its images aren't files of their own, which a table could name",
                    "give a folder of images, a CSV file or an archive",
                )
            if sample not in edits.removed:
                given = tuple(classes[index] for index in label_set(label))
                side = str(name) if edits.splits is None else edits.splits[sample]
                yield Sample(side, sample, file, edits.labels.get(sample, given))


def edited_table(data: LoadedData, edits: Edits, to: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of a dataset after the edits.

    A CSV file keeps its columns; other datasets get the columns path, label and, if they have several splits, split.

    Args:
        to: The file, whose folder the image paths are relative to; with the option `root` they stay as they are.

    Raises:
        RequestError: The samples aren't files, or the classes can't be written.
    """
    if isinstance(data.dataset, CsvFile):
        return _edited_csv(data.dataset, edits, to)
    separated = data.splits.multilabel
    with_splits = edits.splits is not None or len(list(data.splits.present())) > 1
    header = ["path", "label", *(["split"] if with_splits else [])]
    base, rows = str(to.absolute().parent), []
    for sample in edited_samples(data, edits):
        label = SEPARATOR.join(sample.labels)
        if separated and any(SEPARATOR in one for one in sample.labels):
            raise RequestError(f"class {label!r} contains {SEPARATOR!r}, which separates classes", "rename the class")
        rows.append([os.path.relpath(sample.file, base), label, *([sample.split] if with_splits else [])])
    return header, rows


def _edited_csv(dataset: CsvFile, edits: Edits, to: Path) -> tuple[list[str], list[list[str]]]:
    path = dataset.path.expanduser()
    lines = read_rows(path)
    _, header = next(lines)
    columns = find_columns(dataset, header, path)
    added = edits.splits is not None and columns.split is None
    if added:
        header = [*header, "split"]
    moved = dataset.root is None and to.absolute().parent != path.absolute().parent
    rows = []
    for _, values in lines:
        name = dataset.sample_name(values[columns.image])
        if name in edits.removed or (edits.splits is not None and name not in edits.splits):
            continue
        row = [*values, *([""] if added else [])]
        if name in edits.labels:
            _set_labels(row, header, columns, edits.labels[name], dataset.separator)
        if edits.splits is not None:
            row[-1 if columns.split is None else columns.split] = edits.splits[name]
        if moved:
            image = os.path.join(path.absolute().parent, row[columns.image])  # noqa: PTH118 - absolute ones stay
            row[columns.image] = os.path.relpath(image, to.absolute().parent)
        rows.append(row)
    return header, rows


def _set_labels(
    row: list[str], header: Sequence[str], columns: Columns, labels: tuple[str, ...], separator: str | None
) -> None:
    if columns.label is not None:
        row[columns.label] = labels[0] if separator is None else separator.join(labels)
        return
    for name, place in columns.classes.items():
        row[place] = "1" if name in labels else "0"
