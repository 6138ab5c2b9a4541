"""A table of images: a CSV file with columns of image paths, labels and, optionally, splits."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ftkit.api import (
    SPLIT_SYNONYMS,
    Dataset,
    ImageFiles,
    RequestError,
    Split,
    SplitName,
    Splits,
    class_order,
    hookimpl,
    is_image,
    join_splits,
    kind_of_file,
    nearest,
    one_line,
)
from ftkit.builtin.datasets.missing_images import SLASHES, Search, explain, is_file

DELIMITERS = ",;\t"


@dataclass(frozen=True)
class CsvFile(Dataset):
    """Images listed in a CSV file with a header, separated by commas, semicolons or tabs.

    Spaces around values are ignored. Classes are those of the training rows, sorted by name, or numerically if all are
    whole numbers (1, 2, 10).

    Attributes:
        path: The file, in UTF-8.
        root: Folder that the image paths are relative to; by default the folder of the file.
        image_column: Column of image paths.
        label_column: Column of class names.
        image_suffix: Extension of the images, such as .jpg, for a column of names without extension.
        split_column: Column of train, val or test (or training, valid, validation, dev, testing). Without this
            column, all images are for training.
    """

    path: Path
    root: Path | None = None
    image_column: str = "path"
    label_column: str = "label"
    split_column: str = "split"
    image_suffix: str = ""

    def load(self) -> Splits:
        return self._joined(for_training=True)

    def load_for_evaluation(self) -> Splits:
        return self._joined(for_training=False)

    def _joined(self, for_training: bool) -> Splits:
        path = self.path.expanduser()
        root = path.parent if self.root is None else self.root.expanduser()
        rows = self._rows(path)
        _require_images(rows, root, path)
        by_split: dict[SplitName, dict[str, _Row]] = {}
        for row in rows:
            _add(by_split.setdefault(row.split, {}), row, path)
        return _to_splits(by_split, root, path, _notes(len(rows), by_split, path), for_training)

    def _rows(self, path: Path) -> list[_Row]:
        """The rows of the file, each validated."""
        lines = _read(path)
        header = lines[0][1]
        image, label = self._column(header, "image_column", path), self._column(header, "label_column", path)
        split = None
        if self.split_column in header or self.split_column != type(self).split_column:
            split = self._column(header, "split_column", path)
        rows = []
        for number, values in lines[1:]:
            where = f"{path} line {number}"
            if len(values) != len(header):
                raise RequestError(
                    f"{where} has {len(values)} values, but the header has {len(header)}",
                    "quote values that contain separators",
                )
            for key, column in (("image_column", image), ("label_column", label)):
                if not values[column]:
                    raise RequestError(f"{where}: no value in column {header[column]!r} ({key})", "fill it in")
            name = unicodedata.normalize("NFC", values[label])
            side: SplitName = "train" if split is None else _split_name(values[split], where)
            suffix = "" if values[image].lower().endswith(self.image_suffix.lower()) else self.image_suffix
            rows.append(_Row(number, Path(values[image] + suffix).as_posix(), name, side))
        if not rows:
            raise RequestError(f"{path} has a header but no rows", "list one image per row")
        return rows

    def _column(self, header: Sequence[str], key: str, path: Path) -> int:
        name = getattr(self, key)
        if header.count(name) > 1:
            raise RequestError(
                f"{path} has {header.count(name)} columns {name!r}",
                "rename the others",
            )
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


@dataclass(frozen=True, slots=True)
class _Row:
    line: int = field(compare=False)
    image: str
    label: str
    split: SplitName


_REMEDIES = {
    "an Excel workbook": "save the sheet as CSV in UTF-8",
    "text in UTF-16": "save it as UTF-8",
    "a zip archive": "extract it and give the CSV file; --dataset archive reads archives of images",
    "a git-lfs pointer": "download its content with `git lfs pull`",
}


def _read(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and values of each nonblank line, the header first."""
    kind = kind_of_file(path) if path.is_file() else None
    if kind is not None:
        raise RequestError(f"{path} is {kind}, not a CSV file", _REMEDIES.get(kind, "give a CSV file with a header"))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(file.readline())
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            lines = [(reader.line_num, [value.strip() for value in values]) for values in reader]
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8 text: byte {error.start} can't be read", "save it as UTF-8") from None
    except csv.Error as error:
        raise RequestError(f"{path} is not a table: {error}", "give a CSV file with a header") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"{path}: can't be read: {reason}", "set dataset.path to a CSV file") from None
    lines = [line for line in lines if any(line[1])]
    if not lines:
        raise RequestError(f"{path} is empty", "write a header and one image per row")
    return lines


def _delimiter(header: str) -> str:
    """The most frequent separator of the header."""
    return max(DELIMITERS, key=header.count)


def _split_name(value: str, where: str) -> SplitName:
    if value.lower() not in SPLIT_SYNONYMS:
        raise RequestError(f"{where}: split {value!r} is not one of train, val, test", "use one of these")
    return SPLIT_SYNONYMS[value.lower()]


def _require_images(rows: Iterable[_Row], root: Path, path: Path) -> None:
    missing = [row for row in rows if not is_file(root / row.image)]
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
    """Add a row to its split; an image may have only one label."""
    first = members.setdefault(row.image, row)
    if first.label != row.label:
        raise RequestError(
            f"{path} line {row.line}: {row.image} has label {row.label!r}, but {first.label!r} on line {first.line}",
            "an image has one label: keep the right row",
        )


def _notes(rows: int, by_split: Mapping[SplitName, Mapping[str, _Row]], path: Path) -> tuple[str, ...]:
    splits_of = Counter(image for members in by_split.values() for image in members)
    repeated, shared = rows - splits_of.total(), sum(count > 1 for count in splits_of.values())
    notes = (
        (repeated, "duplicate row is ignored", "duplicate rows are ignored"),
        (shared, "image is in more than one split", "images are in more than one split"),
    )
    return tuple(one_line(f"{path.name}: {n} {one if n == 1 else many}") for n, one, many in notes if n)


def _to_splits(
    by_split: Mapping[SplitName, Mapping[str, _Row]], root: Path, path: Path, notes: tuple[str, ...], for_training: bool
) -> Splits:
    parts: dict[SplitName, tuple[Split, Sequence[str]]] = {}
    for split, members in by_split.items():
        own = class_order(row.label for row in members.values())
        labels = {name: label for label, name in enumerate(own)}
        names = sorted(members)
        samples = Split(names, [labels[members[name].label] for name in names], ImageFiles(root.absolute(), names))
        parts[split] = samples, own
    return join_splits(parts, {name: f"{path}, split {name}" for name in parts}, notes, for_training)


@hookimpl
def ftkit_datasets() -> Mapping[str, type[Dataset]]:
    """Tables of images."""
    return {"csv": CsvFile}
