"""Checks of the datasets and backbones of plugins, in every plan and in `ftkit.testing`.

They take a fraction of a second for a million samples: no image is opened and no network is built. Slower checks are
in `ftkit.testing`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from multiprocessing.reduction import ForkingPickler
from typing import IO, Any, cast

from ftkit.data.images import ImageFiles
from ftkit.errors import RequestError, one_line
from ftkit.files.packed_text import PackedText
from ftkit.parts.backbone import Backbone, LayerGroup
from ftkit.parts.dataset import SPLIT_NAMES, Split, SplitName, Splits
from ftkit.parts.label_sets import Labels, LabelSets

ENOUGH = 4 << 20
"""Bytes of a pickled opener after which the check stops: it may hold a million names."""
KNOWN = ("numpy", "torch", "multiprocessing")
"""Packages whose objects can be pickled and may be huge, so the check skips them."""
_SETS = (tuple, list, set, frozenset)
"""Types of the labels of one image in a multi-label dataset."""


def checked_splits(loaded: object) -> Splits:
    """Validate the result of a dataset's `load`.

    Classes and notes become tuples, names `PackedText`, and labels integers or `LabelSets`.

    Raises:
        RequestError: Names and labels differ in number, a name or a class is a duplicate, a label is out of range,
            blocks are invalid, or the opener can't be pickled.
    """
    _require(isinstance(loaded, Splits), f"load() returned {type(loaded).__name__}, not Splits")
    splits = cast(Splits, loaded)
    classes = _classes(splits.classes)
    _require(splits.train is None or isinstance(splits.train, Split), "the train split is not a Split")
    found = {name: _split(name, split, len(classes)) for name, split in splits.present()}
    kinds = {split.multilabel: name for name, split in found.items() if len(split)}
    _require(
        len(kinds) < 2,
        f"the {kinds.get(True)} split has several labels per image, but the {kinds.get(False)} split has one",
        "give each label of all splits as a tuple of class indices",
    )
    given: object = splits.notes
    notes = (given,) if isinstance(given, str) else tuple(splits.notes)
    train, val, test = (found.get(name) for name in SPLIT_NAMES)
    return replace(splits, classes=classes, train=train, val=val, test=test, notes=notes)


def names_in_two_splits(splits: Splits) -> tuple[str, ...]:
    """Notes on sample names that are in two splits."""
    pairs = [(a, b, _in_both(one.names, other.names)) for (a, one), (b, other) in combinations(splits.present(), 2)]
    return tuple(
        f"{len(both):,} sample name{'s are' if len(both) > 1 else ' is'} in {a} and in {b}, as {one_line(min(both))}: "
        f"if the images are the same too, the metrics on {b} are too optimistic"
        for a, b, both in pairs
        if both
    )


def _in_both(some: Sequence[str], others: Sequence[str]) -> set[str]:
    few, many = sorted((some, others), key=len)
    known = set(few)
    return {name for name in many if name in known}


def check_description(backbone: Backbone) -> None:
    """Validate the layer groups and the head of a backbone.

    Raises:
        RequestError: There is no group or no head, a group name is a duplicate, or a pattern is not a regular
            expression.
    """
    groups = tuple(backbone.groups)
    strange = next((group for group in groups if not isinstance(group, LayerGroup)), None)
    _require(bool(groups), "it has no layer groups")
    _require(strange is None, f"{strange!r} is not a LayerGroup")
    twice = _first_twice([group.name for group in groups])
    _require(twice is None, f"two layer groups are named {twice!r}", "give each group its own name")
    for group in groups:
        try:
            re.compile(group.pattern)
        except re.error as error:
            raise RequestError(
                f"the pattern of layer group {group.name!r} is not a regular expression: {error}", "correct it"
            ) from None
    text = isinstance(backbone.head, str)
    _require(not text and bool(backbone.head), "its head names no layers", 'write it as a tuple, as head=("fc",)')


@contextmanager
def error_prefix(source: str) -> Iterator[None]:
    """Prefix the message of each RequestError with `source`."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{source}: {error.message}", error.hint) from None


def _classes(classes: Sequence[str]) -> tuple[str, ...]:
    _require(_is_sequence(classes), f"classes is {type(classes).__name__}", "give a tuple of names")
    for name in classes:
        _require(isinstance(name, str), f"class {name!r} is {type(name).__name__}, not text", "names are text")
        _require(bool(name), "a class has no name")
    twice = _first_twice(classes)
    _require(twice is None, f"duplicate class: {twice}")
    return tuple(classes)


def _split(name: SplitName, split: Split, classes: int) -> Split:
    where = f"{name} split"
    _require(isinstance(split, Split), f"the {where} is {type(split).__name__}, not Split")
    for what, values in (("names", split.names), ("labels", split.labels)):
        _require(_is_sequence(values), f"{where}: {what} is {type(values).__name__}", "give a list")
    names, labels = len(split.names), len(split.labels)
    _require(names == labels, f"{where}: {names} names, {labels} labels", "give one of each for each sample")
    strange = next((n for n in split.names if not isinstance(n, str)), None) if not _all_text(split.names) else None
    _require(strange is None, f"{where}: the sample name {strange!r} is {type(strange).__name__}", "names are text")
    if len(set(split.names)) != names:
        twice = _first_twice(split.names)
        raise RequestError(f"{where}: duplicate sample name: {twice}", "give each sample a unique name")
    _check_blocks(where, split)
    _require(split.stamp is None or isinstance(split.stamp, str), f"{where}: stamp is not text")
    _check_opener(where, split.open)
    return _packed(replace(split, labels=_labels(where, split, classes)))


def _packed(split: Split) -> Split:
    """The split with packed names, shared by its opener if that opens files by the same names."""
    names, opens = PackedText(split.names), split.open
    if type(opens) is ImageFiles:
        same = opens.names is split.names
        opens = replace(opens, names=names if same else PackedText(opens.names))
    return replace(split, names=names, open=opens)


def _labels(where: str, split: Split, classes: int) -> Labels:
    """The labels as plain integers, or as `LabelSets` if they are tuples, lists or sets of integers.

    Raises:
        RequestError: A label is not the index of a class.
    """
    given: Any = split.labels
    if isinstance(given, LabelSets):
        inside = not given.values or (min(given.values) >= 0 and max(given.values) < classes)
        if inside and given.num_classes == classes:
            return given
    if len(given) and isinstance(given[0], _SETS):
        return _label_sets(where, split.names, given, classes)
    kinds = set(map(type, given))
    labels: Any = given
    if kinds - {int}:
        labels = [_integer(where, split.names[i], label, classes) for i, label in enumerate(given)]
    if len(labels) and not (min(labels) >= 0 and max(labels) < classes):
        place, label = next((i, label) for i, label in enumerate(labels) if not 0 <= label < classes)
        raise _no_index(where, split.names[place], label, classes)
    return cast(Sequence[int], labels)


def _label_sets(where: str, names: Sequence[str], given: Sequence[Any], classes: int) -> LabelSets:
    def checked() -> Iterator[list[int]]:
        for name, label in zip(names, given, strict=True):
            if not isinstance(label, _SETS):
                raise RequestError(
                    f"{where}: the label of {name} is {label!r}, but the first one is a set of labels",
                    "give each label as a tuple of class indices",
                )
            yield [_index(where, name, each, classes) for each in label]

    return LabelSets(checked(), classes)


def _index(where: str, name: str, label: Any, classes: int) -> int:
    index = _integer(where, name, label, classes)
    if not 0 <= index < classes:
        raise _no_index(where, name, label, classes)
    return index


def _integer(where: str, name: str, label: Any, classes: int) -> int:
    try:
        if isinstance(label, bool):
            raise TypeError
        return operator.index(label)
    except (TypeError, ValueError, RuntimeError):  # the last from tensors
        raise _no_index(where, name, label, classes) from None


def _no_index(where: str, name: str, label: object, classes: int) -> RequestError:
    return RequestError(
        f"{where}: the label of {name} is {label!r}, which is not an index of the {classes} classes",
        f"give integers from 0 to {classes - 1}, and omit samples without a class",
    )


def _check_blocks(where: str, split: Split) -> None:
    blocks = split.blocks
    if blocks is None:
        return
    fits = _is_sequence(blocks) and len(blocks) == len(split.names)
    whole = fits and set(map(type, blocks)) <= {int} and (not len(blocks) or min(blocks) >= 0)
    _require(whole, f"{where}: blocks are not one integer from 0 per sample", "give plain integers, one per sample")


def _check_opener(where: str, opener: object) -> None:
    _require(callable(opener), f"{where}: open is {type(opener).__name__}", "give a function of a sample's position")
    sink = _Sink()
    trial = _Trial(cast(IO[bytes], sink))
    try:
        trial.dump(opener)
        if not trial.skipped_data:
            ForkingPickler.loads(sink.content)
    except _EnoughError:
        return
    except (Exception, SystemExit) as error:
        text = one_line(" ".join(str(error).split())) or type(error).__name__
        raise RequestError(
            f"{where}: open can't be pickled for worker processes: {text}",
            "make it a module-level function or an instance of a module-level class, without open files or connections",
        ) from None


class _EnoughError(Exception):
    """The object is so large that the rest isn't checked."""


class _Sink:
    """Keeps the bytes written, up to `ENOUGH`."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, part: Any) -> int:
        size = memoryview(part).nbytes
        if len(self.content) + size > ENOUGH:
            raise _EnoughError
        self.content += part
        return size


class _Trial(ForkingPickler):
    """A trial run of pickling; arrays and tensors are skipped, since they can be huge."""

    skipped_data = False

    def persistent_id(self, obj: object) -> str | None:
        kind = type(obj)
        if kind.__module__.partition(".")[0] not in KNOWN or isinstance(obj, type):
            return None
        self.skipped_data = True
        return kind.__name__


def _all_text(names: Iterable[object]) -> bool:
    return all(issubclass(kind, str) for kind in set(map(type, names)))


def _is_sequence(value: object) -> bool:
    """Whether it has a length and can be indexed, as arrays and tensors can, but not generators or sets."""
    return hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, str | bytes | dict)


def _first_twice(names: Iterable[str]) -> str | None:
    seen = set[str]()
    for name in names:
        if name in seen:
            return one_line(name)
        seen.add(name)
    return None


def _require(holds: bool, message: str, hint: str | None = None) -> None:
    if not holds:
        raise RequestError(message, hint)
