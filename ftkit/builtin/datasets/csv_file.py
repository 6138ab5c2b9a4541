"""A table of images: a CSV file with columns of image paths, labels and, optionally, splits."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import ClassVar

from ftkit.api import (
    SPLIT_SYNONYMS,
    Dataset,
    ImageFiles,
    LabelSets,
    RequestError,
    Split,
    SplitName,
    Splits,
    class_order,
    hookimpl,
    join_splits,
    kind_of_file,
    one_line,
)
from ftkit.builtin.datasets.csv_columns import Columns, find_columns, labels_of, require_label_options
from ftkit.builtin.datasets.missing_images import SLASHES, Search, explain

DELIMITERS = ",;\t"

UNUSUAL = re.compile(r"(?:^|/)\.?(?:/|$)")
"""Paths that `Path` writes in another way: those with empty parts, or parts that are a single dot."""


@dataclass(frozen=True)
class CsvFile(Dataset):
    """Images listed in a CSV file with a header, separated by commas, semicolons or tabs.

    Spaces around values are ignored. Classes are those of the training rows, sorted by name, or numerically if all are
    whole numbers (1, 2, 10). With `separator` or `class_columns` an image may have any number of labels.

    Attributes:
        path: The file, in UTF-8.
        root: Folder that the image paths are relative to; by default the folder of the file.
        image_column: Column of image paths.
        label_column: Column of class names.
        image_suffix: Extension of the images, such as .jpg, for a column of names without extension.
        split_column: Column of train, val or test (or training, valid, validation, dev, testing). Without this
            column, all images are for training.
        separator: Several labels per image: the text between the class names in the label column, such as |. An empty
            cell means no label.
        class_columns: Several labels per image: the names of columns, one per class, with 1 or true for images of the
            class and 0 or false for others. Patterns such as is_* also select columns. Classes are in the order of
            the columns.
    """

    layout_options: ClassVar[tuple[str, ...]] = (
        "image_column", "label_column", "split_column", "image_suffix", "separator", "class_columns",
    )  # fmt: skip

    path: Path
    root: Path | None = None
    image_column: str = "path"
    label_column: str = "label"
    split_column: str = "split"
    image_suffix: str = ""
    separator: str | None = None
    class_columns: tuple[str, ...] | str = ()

    def load(self) -> Splits:
        return self._joined(for_training=True)

    def load_for_evaluation(self) -> Splits:
        return self._joined(for_training=False)

    def header(self) -> list[str]:
        """The names of all columns."""
        return next(read_rows(self.path.expanduser()), (0, list[str]()))[1]

    def column(self, name: str) -> dict[str, str] | None:
        """The values of a further column by the name of the image, of its first row; None if there is no such column.

        Raises:
            RequestError: The file can't be read.
        """
        lines = read_rows(self.path.expanduser())
        _, header = next(lines, (0, list[str]()))
        if name not in header:
            return None
        image, place = find_columns(self, header, self.path).image, header.index(name)
        found: dict[str, str] = {}
        for _, values in lines:
            found.setdefault(self.sample_name(values[image]), values[place])
        return found

    def sample_name(self, image: str) -> str:
        """The name of a sample for the value of its image column."""
        name = image + ("" if image.lower().endswith(self.image_suffix.lower()) else self.image_suffix)
        # Path takes five times as long.
        return Path(name).as_posix() if UNUSUAL.search(name) else name

    def _joined(self, for_training: bool) -> Splits:
        require_label_options(self)
        path = self.path.expanduser()
        root = path.parent if self.root is None else self.root.expanduser()
        lines = read_rows(path)
        _, header = next(lines, (0, []))
        if not header:
            raise RequestError(f"{path} is empty", "write a header and one image per row")
        columns = find_columns(self, header, path)
        rows = self._rows(lines, header, columns, path)
        _require_images(rows, root, path)
        by_split: dict[SplitName, dict[str, _Row]] = {}
        for row in rows:
            _add(by_split.setdefault(row.split, {}), row, path)
        parts = {
            split: _to_split(members, columns, root, self.separator is not None) for split, members in by_split.items()
        }
        where = {name: f"{path}, split {name}" for name in parts}
        notes = (*_notes(len(rows), by_split, path), *_separator_notes(rows, self.separator, path))
        return join_splits(parts, where, notes, for_training)

    def _rows(
        self, lines: Iterable[tuple[int, list[str]]], header: Sequence[str], columns: Columns, path: Path
    ) -> list[_Row]:
        """The rows of the file, each validated; rows of the same classes share them."""
        rows, known = list[_Row](), dict[tuple[str, ...], tuple[str, ...]]()
        for number, values in lines:
            where = f"{path} line {number}"
            if len(values) != len(header):
                raise RequestError(
                    f"{where} has {len(values)} values, but the header has {len(header)}",
                    "quote values that contain separators",
                )
            image = values[columns.image]
            if not image:
                raise RequestError(
                    f"{where}: no value in column {header[columns.image]!r} (image_column)", "fill it in"
                )
            labels = labels_of(values, header, columns, self.separator, where)
            side: SplitName = "train" if columns.split is None else _split_name(values[columns.split], where)
            rows.append(_Row(number, self.sample_name(image), known.setdefault(labels, labels), side))
        if not rows:
            raise RequestError(f"{path} has a header but no rows", "list one image per row")
        return rows


@dataclass(frozen=True, slots=True)
class _Row:
    line: int = field(compare=False)
    image: str
    labels: tuple[str, ...]
    split: SplitName


_REMEDIES = {
    "an Excel workbook": "save the sheet as CSV in UTF-8",
    "text in UTF-16": "save it as UTF-8",
    "a zip archive": "extract it and give the CSV file; --dataset archive reads archives of images",
    "a git-lfs pointer": "download its content with `git lfs pull`",
}


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and values of each nonblank line of a table, the header first; spaces around values are removed.

    Raises:
        RequestError: The file can't be read.
    """
    kind = kind_of_file(path) if path.is_file() else None
    if kind is not None:
        raise RequestError(f"{path} is {kind}, not a CSV file", _REMEDIES.get(kind, "give a CSV file with a header"))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = delimiter_of(file.readline())
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for values in reader:
                stripped = [value.strip() for value in values]
                if any(stripped):
                    yield reader.line_num, stripped
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8 text: byte {error.start} can't be read", "save it as UTF-8") from None
    except csv.Error as error:
        raise RequestError(f"{path} is not a table: {error}", "give a CSV file with a header") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"{path}: can't be read: {reason}", "set dataset.path to a CSV file") from None


def delimiter_of(header: str) -> str:
    """The most frequent separator of the header."""
    return max(DELIMITERS, key=header.count)


def _split_name(value: str, where: str) -> SplitName:
    if value.lower() not in SPLIT_SYNONYMS:
        raise RequestError(f"{where}: split {value!r} is not one of train, val, test", "use one of these")
    return SPLIT_SYNONYMS[value.lower()]


def _require_images(rows: Iterable[_Row], root: Path, path: Path) -> None:
    folder = str(root)
    missing = [row for row in rows if not os.path.isfile(os.path.join(folder, row.image))]  # noqa: PTH113, PTH118
    if not missing:
        return
    count = f" ({len(missing):,} are missing)" if len(missing) > 1 else ""
    place, found, hint = explain(Search(root, [root.parent, path.parent, Path.cwd()]), [row.image for row in missing])
    first = missing[place]
    if not hint and "\\" in first.image:
        hint = SLASHES
    if "://" in first.image or re.match(r"https?:/", first.image):
        hint = "URLs are not supported: download the images and give their paths"
    there = f", but {found.path} exists" if found is not None else ""
    raise RequestError(
        f"{path} line {first.line}: no file {root / first.image}{count}{there}",
        hint
        or (SLASHES if "\\" in first.image else "")
        or "paths are relative to the CSV file's folder, or to dataset.root",
    )


def _add(members: dict[str, _Row], row: _Row, path: Path) -> None:
    """Add a row to its split; rows of the same image must have the same labels."""
    first = members.setdefault(row.image, row)
    if first.labels != row.labels:
        one, other = (" and ".join(map(repr, labels)) or "none" for labels in (row.labels, first.labels))
        raise RequestError(
            f"{path} line {row.line}: {row.image} has label {one}, but {other} on line {first.line}",
            "keep the right row; with dataset.separator a cell may have several labels",
        )


def _notes(rows: int, by_split: Mapping[SplitName, Mapping[str, _Row]], path: Path) -> tuple[str, ...]:
    repeated = rows - sum(map(len, by_split.values()))
    shared = len(set[str]().union(*(one.keys() & other.keys() for one, other in combinations(by_split.values(), 2))))
    notes = (
        (repeated, "duplicate row is ignored", "duplicate rows are ignored"),
        (shared, "image is in more than one split", "images are in more than one split"),
    )
    return tuple(one_line(f"{path.name}: {n} {one if n == 1 else many}") for n, one, many in notes if n)


def _separator_notes(rows: Sequence[_Row], separator: str | None, path: Path) -> tuple[str, ...]:
    """A note where the labels look as if the separator were another one, or missing."""
    labels = {label for row in rows for label in row.labels}
    if separator is not None and all(len(row.labels) < 2 for row in rows):
        return (one_line(f"{path.name}: no image has several labels: separator {separator!r} is in no value"),)
    if separator is None and any("|" in label for label in labels):
        return (one_line(f"{path.name}: labels contain '|': --set 'dataset.separator=|' reads them as several"),)
    return ()


def _to_split(
    members: Mapping[str, _Row], columns: Columns, root: Path, separated: bool
) -> tuple[Split, Sequence[str]]:
    """A split and its classes in label order."""
    names = sorted(members)
    classes = tuple(columns.classes) or class_order(label for row in members.values() for label in row.labels)
    number = {name: label for label, name in enumerate(classes)}
    sets = ([number[label] for label in members[name].labels] for name in names)
    labels = LabelSets(sets, len(classes)) if separated or columns.classes else [one for (one,) in sets]
    return Split(names, labels, ImageFiles(root.absolute(), names)), classes


@hookimpl
def ftkit_datasets() -> Mapping[str, type[Dataset]]:
    """Tables of images."""
    return {"csv": CsvFile}
