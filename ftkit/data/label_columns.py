"""From the label column of a table to the labels of splits; samples without a label are skipped and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from ftkit.errors import RequestError
from ftkit.parts.dataset import SPLIT_NAMES, Split, SplitName, Splits, class_order, join_splits

_NAMED = 3
"""Maximum samples named in a message."""


@dataclass(frozen=True)
class Labelled:
    """A split and its label column.

    Attributes:
        split: The samples; `split.labels` is ignored.
        values: Value of the label column per sample: text, integer or bool.
        classes: Class names by number, if the data declares them.
    """

    split: Split
    values: Sequence[object]
    classes: Sequence[str] | None = None


MISSING_WORDS = frozenset({"none", "nan", "null", "na", "n/a", "<na>"})
"""Text that programs write for a missing value, in lower case."""


class _No(Enum):
    """Why a sample has no label."""

    EMPTY = "missing"
    MINUS_ONE = "-1"


def label_splits(
    tables: Mapping[SplitName, Labelled],
    where: Mapping[SplitName, str],
    notes: tuple[str, ...] = (),
    for_training: bool = True,
) -> Splits:
    """Convert label columns to labels and join the splits with `join_splits`.

    A sample has no label if the value is missing (None, NaN, empty text), or if it is -1 and classes are numbered:
    either declared by number, or all other values are numbers from 0, at least two of them. Text such as `None`,
    `nan` and `-1` also means no label if classes are numbered, or if the training split has no class of that name.
    Samples without a label are skipped, and so is a split without any label, such as the test split of a competition.
    Notes give counts and reasons.

    Args:
        where: Name of each split in messages.
        notes: Put before the notes of this function.
        for_training: See `join_splits`.

    Raises:
        RequestError: A value is not a class, the first split has no labels, or lacks a class of another split.
    """
    present: list[SplitName] = [name for name in SPLIT_NAMES if name in tables]
    found = {name: _classes_of(tables[name], where[name]) for name in present}
    known = set() if _counts_from_0(found[present[0]]) else set(found[present[0]])
    found = {name: [one if one in known else _unless_missing(one) for one in its] for name, its in found.items()}
    lines, parts = list(notes), dict[SplitName, tuple[Split, Sequence[str]]]()
    for name, its in found.items():
        split, kept = tables[name].split, [place for place, one in enumerate(its) if isinstance(one, str)]
        lines += [_skipped_note(name, split, its, len(kept))] if len(kept) < len(its) else []
        if kept:
            names = [one for one in its if isinstance(one, str)]
            own = tuple(tables[name].classes or class_order(names))
            number = {text: label for label, text in enumerate(own)}
            split = split if len(kept) == len(its) else split.subset(kept)
            parts[name] = replace(split, labels=[number[text] for text in names]), own
    first = present[0]
    if not parts or (for_training and first not in parts):
        raise RequestError(f"{where[first]}: none of {len(found[first]):,} samples has a label", "give labelled data")
    return join_splits(parts, where, tuple(lines), for_training)


def _classes_of(table: Labelled, where: str) -> list[str | _No]:
    """The class name of each sample, or why it has none."""
    known: dict[tuple[type, object], str | _No] = {}
    found: list[str | _No] = []
    for place, value in enumerate(table.values):
        if value is None or value != value:
            found.append(_No.EMPTY)
            continue
        try:
            key = type(value), value
            if key not in known:
                known[key] = _class_of(value, table.classes)
        except (TypeError, ValueError) as error:
            what = error if isinstance(error, ValueError) else f"a {type(value).__name__}"
            raise RequestError(
                f"{where}: the label of {table.split.names[place]} is {what}",
                "a label is one class for an image: a name or a whole number",
            ) from None
        found.append(known[key])
    return found


def _class_of(value: object, classes: Sequence[str] | None) -> str | _No:
    """The class name for a value of the label column.

    Raises:
        ValueError: The value is not a class; the text describes it.
        TypeError: Values of this type are not supported.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # Integer columns with missing values are often stored as floats.
    if isinstance(value, str):
        text = value if value.strip() else _No.EMPTY
        if classes is not None and text not in classes:
            text = _unless_missing(text)
        if classes is not None and isinstance(text, str) and text not in classes:
            raise ValueError(f"{value!r}, which isn't among the {len(classes)} class names")
        return text
    if isinstance(value, bool):
        return str(value)
    if not isinstance(value, int):
        raise ValueError(f"{value}, not a whole number") if isinstance(value, float) else TypeError
    if classes is None:
        return str(value)
    if value == -1:
        return _No.MINUS_ONE
    if not 0 <= value < len(classes):
        raise ValueError(f"{value}, and there are {len(classes)} class names, for 0 to {len(classes) - 1}")
    return classes[value]


def _unless_missing(text: str | _No) -> str | _No:
    """`text`, or the reason why it is not a label if it is a word for a missing value."""
    if not isinstance(text, str):
        return text
    return _No.MINUS_ONE if text == "-1" else _No.EMPTY if text.strip().lower() in MISSING_WORDS else text


def _counts_from_0(found: Sequence[str | _No]) -> bool:
    """Whether classes are numbers from 0, so that -1 and words for missing values mean no label."""
    others = {one for one in found if isinstance(one, str) and one != "-1"}
    names = {one for one in others if isinstance(_unless_missing(one), str)}
    return not others or (len(names) > 1 and all(text.isdecimal() for text in names))


def _skipped_note(name: SplitName, split: Split, found: Sequence[str | _No], kept: int) -> str:
    """The note on samples without a label."""
    counts = Counter(one.value for one in found if isinstance(one, _No))
    why = ", ".join(f"{count:,} {'are' if count > 1 else 'is'} {reason}" for reason, count in counts.items())
    if not kept:
        return f"the {name} split is skipped: none of its {len(found):,} images has a label ({why})"
    places = [place for place, one in enumerate(found) if isinstance(one, _No)]
    few = ", ".join(split.names[place] for place in places[:_NAMED])
    more = f" and {len(places) - _NAMED:,} more" if len(places) > _NAMED else ""
    some = f"{len(places):,} of {len(found):,} images have no label and are skipped"
    return f"the {name} split: {some} ({why}): {few}{more}"
