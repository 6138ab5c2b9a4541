"""The columns of a CSV file of images: which ones are used, and the labels of a row."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from ftkit.api import RequestError, is_image, nearest

TRUTH = {"1": True, "true": True, "0": False, "false": False}
"""Values of class columns, in lower case."""


class Options(Protocol):
    """The options of dataset `csv` on columns."""

    @property
    def image_column(self) -> str: ...
    @property
    def label_column(self) -> str: ...
    @property
    def split_column(self) -> str: ...
    @property
    def separator(self) -> str | None: ...
    @property
    def class_columns(self) -> tuple[str, ...] | str: ...


@dataclass(frozen=True)
class Columns:
    """Positions of columns.

    Attributes:
        label: None with class columns.
        split: None if the file has no splits.
        classes: Class name -> position of its column; empty with a label column.
    """

    image: int
    label: int | None
    split: int | None
    classes: dict[str, int]


def require_label_options(options: Options) -> None:
    """Require that `separator` and `class_columns` are not used together.

    Raises:
        RequestError: They are, or the separator is empty.
    """
    if options.separator is not None and options.class_columns:
        raise RequestError("dataset.separator has no effect with dataset.class_columns", "remove one of them")
    if options.separator == "":
        raise RequestError("dataset.separator is empty", 'give the text between labels; YAML needs quotes: "|"')


def find_columns(options: Options, header: Sequence[str], path: Path) -> Columns:
    """The columns that are used.

    Raises:
        RequestError: The header has no such column, or has it twice.
    """
    image = _column(header, options.image_column, "image_column", path)
    split = None
    if options.split_column in header or options.split_column != "split":
        split = _column(header, options.split_column, "split_column", path)
    if not options.class_columns:
        return Columns(image, _column(header, options.label_column, "label_column", path), split, {})
    patterns = [options.class_columns] if isinstance(options.class_columns, str) else options.class_columns
    used = {image, split}
    found: dict[str, int] = {}
    for pattern in patterns:
        if pattern in header:
            places = [_column(header, pattern, "class_columns", path)]
        else:
            places = [n for n, name in enumerate(header) if n not in used and fnmatchcase(name, pattern)]
        if not places:
            _column(header, pattern, "class_columns", path)
        for place in places:
            _column(header, header[place], "class_columns", path)
            found[unicodedata.normalize("NFC", header[place])] = place
    return Columns(image, None, split, dict(sorted(found.items(), key=lambda one: one[1])))


def labels_of(
    values: Sequence[str], header: Sequence[str], columns: Columns, separator: str | None, where: str
) -> tuple[str, ...]:
    """The class names of a row.

    Raises:
        RequestError: A label is missing, or a value of a class column is not 0 or 1.
    """
    if columns.label is None:
        return tuple(name for name, place in columns.classes.items() if _truth(values[place], header[place], where))
    cell = unicodedata.normalize("NFC", values[columns.label])
    if separator is not None:
        names = [name.strip() for name in cell.split(separator)] if cell else []
        if separator.isspace():
            names = [name for name in names if name]
        if "" in names:
            raise RequestError(
                f"{where}: an empty label in column {header[columns.label]!r}: {cell!r}", "remove the extra separator"
            )
        return tuple(sorted(set(names)))
    if not cell:
        raise RequestError(
            f"{where}: no value in column {header[columns.label]!r} (label_column)",
            "fill it in; for images without labels, set dataset.separator",
        )
    return (cell,)


def _truth(value: str, column: str, where: str) -> bool:
    if value.lower() not in TRUTH:
        raise RequestError(
            f"{where}: {value!r} in class column {column!r} is not 0, 1, false or true", "correct the value"
        )
    return TRUTH[value.lower()]


def _column(header: Sequence[str], name: str, key: str, path: Path) -> int:
    if header.count(name) > 1:
        raise RequestError(f"{path} has {header.count(name)} columns {name!r}", "rename the others")
    if name not in header:
        if any(is_image(Path(value)) for value in header):
            raise RequestError(
                f"{path} has no column {name!r}: its first line is not a header: {', '.join(header)}",
                "add a header, such as path,label",
            )
        close = nearest(name, header)
        raise RequestError(
            f"{path} has no column {name!r}, only {', '.join(header)}",
            f"name the column with --set dataset.{key}={close or 'COLUMN'}",
        )
    return header.index(name)
