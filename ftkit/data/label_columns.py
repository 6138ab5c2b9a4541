"""From what stands in a table's column of labels to the labels of splits: what is no label is left out, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from ftkit.errors import RequestError
from ftkit.parts.dataset import SPLIT_NAMES, Split, SplitName, Splits, class_order, join_splits

_NAMED = 3
"""Samples that a message names."""


@dataclass(frozen=True)
class Labelled:
    """A split as a table has it.

    Attributes:
        split: Its samples; their labels aren't looked at.
        values: What stands in the column of labels, by sample: text, whole numbers or truth values.
        classes: Class names by number, where the data declares them.
    """

    split: Split
    values: Sequence[object]
    classes: Sequence[str] | None = None


MISSING_WORDS = frozenset({"none", "nan", "null", "na", "n/a", "<na>"})
"""What programs write as text for a value that is missing, in lower case."""


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
    """The splits with their labels, which index the same classes, as `join_splits` has it.

    No label is: a missing value (None, NaN, empty text), and -1 where classes are declared by number, or where all
    others are numbers from 0 and two or more. There, and where the training split has no such class, text such as
    `None`, `nan` and `-1` is none either. Such samples are left out, and a split without any label is left out as a
    whole, as the test splits of competitions are published; notes give counts and reasons.

    Args:
        where: How messages call each split.
        notes: Lines that come before those.
        for_training: As in `join_splits`.

    Raises:
        RequestError: A value stands for no class, a number has no name, the first split has no labels at all, or
            another one has a class that it lacks.
    """
    present: list[SplitName] = [name for name in SPLIT_NAMES if name in tables]
    found = {name: _classes_of(tables[name], where[name]) for name in present}
    known = set() if _counts_from_0(found[present[0]]) else set(found[present[0]])
    found = {name: [one if one in known else _unless_missing(one) for one in its] for name, its in found.items()}
    lines, parts = list(notes), dict[SplitName, tuple[Split, Sequence[str]]]()
    for name, its in found.items():
        split, kept = tables[name].split, [place for place, one in enumerate(its) if isinstance(one, str)]
        lines += [_left_out(name, split, its, len(kept))] if len(kept) < len(its) else []
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
    """The class of each sample by name."""
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
            said = error if isinstance(error, ValueError) else f"a {type(value).__name__}"
            raise RequestError(
                f"{where}: the label of {table.split.names[place]} is {said}",
                "a label is one class for an image: a name or a whole number",
            ) from None
        found.append(known[key])
    return found


def _class_of(value: object, classes: Sequence[str] | None) -> str | _No:
    """The class that a value stands for.

    Raises:
        ValueError: It stands for none; says what it is.
        TypeError: It is no kind of value that can.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # A column of whole numbers with missing ones is often kept as floats.
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
    """A class that there isn't, unless its name says that there is none."""
    if not isinstance(text, str):
        return text
    return _No.MINUS_ONE if text == "-1" else _No.EMPTY if text.strip().lower() in MISSING_WORDS else text


def _counts_from_0(found: Sequence[str | _No]) -> bool:
    """Whether classes are numbers from 0 on, so that -1 is none of them, nor is a word for a missing value."""
    others = {one for one in found if isinstance(one, str) and one != "-1"}
    names = {one for one in others if isinstance(_unless_missing(one), str)}
    return not others or (len(names) > 1 and all(text.isdecimal() for text in names))


def _left_out(name: SplitName, split: Split, found: Sequence[str | _No], kept: int) -> str:
    """What a person should know of the samples without a label."""
    counts = Counter(one.value for one in found if isinstance(one, _No))
    why = ", ".join(f"{count:,} {'are' if count > 1 else 'is'} {reason}" for reason, count in counts.items())
    if not kept:
        return f"the {name} split is left out: none of its {len(found):,} labels is known ({why})"
    places = [place for place, one in enumerate(found) if isinstance(one, _No)]
    few = ", ".join(split.names[place] for place in places[:_NAMED])
    more = f" and {len(places) - _NAMED:,} more" if len(places) > _NAMED else ""
    some = f"{len(places):,} of {len(found):,} images have no label and are left out"
    return f"the {name} split: {some} ({why}): {few}{more}"
