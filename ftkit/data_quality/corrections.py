"""Corrections of labels: a table that a person has edited, checked against the dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftkit.builtin.datasets.csv_file import read_rows
from ftkit.data_quality.dataset_request import LoadedData
from ftkit.data_quality.table_edits import Edits
from ftkit.errors import RequestError, nearest, plural
from ftkit.parts.label_sets import SEPARATOR

ACTIONS = ("keep", "relabel", "remove")
COLUMNS = ("image", "label", "action")
NAMED = 3


@dataclass(frozen=True)
class Correction:
    """A row of the table.

    Attributes:
        line: Its number in the file.
        action: `keep`, `relabel`, `remove`, or empty if none was chosen.
        label: The new label for `relabel`; of several, joined by `|`.
    """

    line: int
    image: str
    action: str
    label: str


@dataclass(frozen=True)
class Changes:
    """The changes that corrections make.

    Attributes:
        edits: New labels and removed images.
        relabelled: Number of images by old and new label.
        unchanged: Number of `relabel` rows whose image has that label already.
        kept: Number of `keep` rows.
        undecided: Number of rows without an action.
    """

    edits: Edits
    relabelled: dict[tuple[str, str], int]
    unchanged: int
    kept: int
    undecided: int

    def summary(self) -> Iterator[str]:
        """Lines with the counts."""
        total = sum(self.relabelled.values())
        yield f"{plural(total, 'image')} relabelled, {len(self.edits.removed):,} removed, {self.kept:,} kept"
        for (old, new), count in sorted(self.relabelled.items(), key=lambda one: -one[1]):
            yield f"  {old or 'no label'} -> {new or 'no label'}: {count:,}"
        if self.unchanged:
            yield f"{plural(self.unchanged, 'row')} to relabel have the label already"
        if self.undecided:
            yield f"{plural(self.undecided, 'row')} without an action: their images are kept as they are"


def read_corrections(path: Path) -> list[Correction]:
    """The rows of a table with the columns image, label and action; further columns are ignored.

    Raises:
        RequestError: The file can't be read, lacks a column, or has another action or a `relabel` without a label.
    """
    if not path.is_file():
        raise RequestError(f"{path}: no such file", "give the table that ftkit data audit --to wrote")
    lines = read_rows(path)
    _, header = next(lines, (0, list[str]()))
    for column in ("image", "action"):
        if column not in header:
            raise RequestError(f"{path} has no column {column!r}", f"it needs the columns {', '.join(COLUMNS)}")
    found, seen = [], dict[str, Correction]()
    for number, values in lines:
        where = f"{path} line {number}"
        if len(values) != len(header):
            raise RequestError(f"{where} has {len(values)} values, but the header has {len(header)}", "correct the row")
        row = dict(zip(header, values, strict=True))
        one = Correction(number, row["image"], row["action"].lower(), row.get("label", ""))
        if one.action and one.action not in ACTIONS:
            close = nearest(one.action, ACTIONS)
            raise RequestError(
                f"{where}: action {row['action']!r} is not keep, relabel or remove",
                f"did you mean {close!r}?" if close else "correct it, or leave it empty",
            )
        first = seen.setdefault(one.image, one)
        if (first.action, first.label) != (one.action, one.label):
            raise RequestError(f"{where}: {one.image} has another action on line {first.line}", "keep one of the rows")
        if first is one:
            found.append(one)
    return found


def plan_changes(data: LoadedData, corrections: Sequence[Correction], path: Path, new_classes: bool) -> Changes:
    """The changes that corrections make to a dataset.

    Args:
        path: The file of the corrections, for messages.
        new_classes: Accept labels that aren't classes of the data yet.

    Raises:
        RequestError: An image isn't in the data, or a label isn't a class.
    """
    wanted = {one.image for one in corrections}
    current: dict[str, str] = {}
    for _, split, index in data.samples():
        if split.names[index] in wanted:
            current[split.names[index]] = data.label_text(split, index)
    _require_images(corrections, current, path, data.source)
    labels: dict[str, tuple[str, ...]] = {}
    order = [*data.splits.classes, *sorted({name for one in corrections for name in one.label.split(SEPARATOR)})]
    relabelled, unchanged = Counter[tuple[str, str]](), 0
    for one in corrections:
        if one.action != "relabel":
            continue
        new = _labels(one, data, path, new_classes)
        old, text = current[one.image], SEPARATOR.join(sorted(new, key=order.index))
        if text == old:
            unchanged += 1
            continue
        labels[one.image] = new
        relabelled[old, text] += 1
    removed = frozenset(one.image for one in corrections if one.action == "remove")
    counts = Counter(one.action for one in corrections)
    return Changes(Edits(labels, removed), dict(relabelled), unchanged, counts["keep"], counts[""])


def _require_images(corrections: Sequence[Correction], current: Collection[str], path: Path, source: str) -> None:
    missing = [one for one in corrections if one.image not in current]
    if missing:
        few = ", ".join(f"{one.image} (line {one.line})" for one in missing[:NAMED])
        more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
        raise RequestError(
            f"{path}: {plural(len(missing), 'image is', 'images are')} not in {source}: {few}{more}",
            "image names are those of ftkit data audit, relative to the data",
        )


def _labels(one: Correction, data: LoadedData, path: Path, new_classes: bool) -> tuple[str, ...]:
    """The new class names of a row; with several labels per image, none is possible."""
    where = f"{path} line {one.line}"
    if not data.splits.multilabel:
        if not one.label:
            raise RequestError(f"{where}: relabel without a label", "fill in the column label")
        names: tuple[str, ...] = (one.label,)
    else:
        names = tuple(filter(None, (name.strip() for name in one.label.split(SEPARATOR))))
    for name in names:
        if name not in data.splits.classes and not new_classes:
            close = nearest(name, data.splits.classes)
            raise RequestError(
                f"{where}: {name!r} is not a class of {data.source}",
                f"{f'did you mean {close!r}? ' if close else ''}--new-classes accepts new ones",
            )
    return names
