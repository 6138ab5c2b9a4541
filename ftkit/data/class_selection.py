"""Class selection: subsets of a dataset's classes (`classes`) and mappings to other classes (`label_map`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ftkit.errors import RequestError, plural, unknown
from ftkit.parts.dataset import Split, Splits
from ftkit.parts.label_sets import LabelSets, count_classes

ClassMapping = Mapping[str, str | None]
"""Class of the data -> class of the model, or None for a class that isn't used; empty without selection or mapping."""


def select_classes(
    splits: Splits,
    used: Sequence[str] | None,
    label_map: Mapping[str, str] | None,
    places: tuple[str, str] = ("classes", "label_map"),
) -> Splits:
    """Keep the images of the selected classes, under their target names.

    The order of the classes is that of `used`, or of the first mention of each target in `label_map`. In a multi-label
    dataset all images are kept, with the labels that are selected: an image without any of them is a negative example.

    Args:
        used: Classes of the data to keep; None keeps all.
        label_map: Class of the data -> target, for all kept classes; None keeps the names.
        places: Names of the two options in messages.

    Raises:
        RequestError: A name isn't a class of the data, a kept class has no target, or fewer than two classes remain
            (multi-label: none).
    """
    if used is None and label_map is None:
        return splits
    least = 1 if splits.multilabel else 2
    kept = splits.classes if used is None else _checked(used, splits.classes, places[0], least)
    targets = {name: name for name in kept}
    if label_map is not None:
        targets = _targets(label_map, kept, splits, places[1], least)
    mapping = {name: targets.get(name) for name in splits.classes}
    chosen = _apply(splits, mapping, tuple(dict.fromkeys(targets.values())))
    notes = [] if used is None else [f"classes: {len(kept)} of {len(mapping)} are used, {_counted(chosen, splits)}"]
    notes += [] if label_map is None else [f"label_map: {_shown(targets)}"]
    return replace(chosen, class_mapping=mapping, notes=(*splits.notes, *notes))


def apply_training_classes(splits: Splits, mapping: ClassMapping, targets: Sequence[str], source: str) -> Splits:
    """Map the classes of other data in the same way as the training data of a model.

    Data whose classes already have the names of the targets is returned unchanged.

    Args:
        mapping: `Splits.class_mapping` of the model's training data.
        targets: The model's classes.
        source: Name of the data in messages.

    Raises:
        RequestError: No image is of a class that the model was trained on.
    """
    names = set(splits.classes)
    if not mapping or (names <= set(targets) and not names <= set(mapping)):
        return splits
    # A class that the training data doesn't have keeps its name, so that the caller can compare it with the model's.
    own = {name: mapping.get(name, name) for name in splits.classes}
    chosen = _apply(splits, own, tuple(dict.fromkeys(t for t in own.values() if t is not None)))
    if not any(count_classes(split.labels) for _, split in chosen.present()):
        trained = [name for name, target in mapping.items() if target is not None]
        raise RequestError(
            f"{source}: no image is of a class that the model was trained on: {_few(trained)}", "give other images"
        )
    out = [name for name in splits.classes if own[name] is None]
    note = (f"classes not used in training are skipped: {_few(out)}, {_counted(chosen, splits)}",) if out else ()
    return replace(chosen, notes=(*splits.notes, *note))


def _checked(used: Sequence[str], classes: Sequence[str], where: str, least: int) -> tuple[str, ...]:
    known, given_times = set(classes), Counter(used)
    for name, times in given_times.items():
        if name not in known:
            raise unknown("class", name, classes, where)
        if times > 1:
            raise RequestError(f"{where}: class {name!r} is given {times} times", "give it once")
    if len(used) < least:
        given = f"only class {used[0]!r}" if used else "no class"
        raise RequestError(f"{where}: {given} is given", "a classifier needs two or more")
    return tuple(used)


def _targets(
    label_map: Mapping[str, str], kept: Sequence[str], splits: Splits, where: str, least: int
) -> dict[str, str]:
    known, used = set(splits.classes), set(kept)
    for name in label_map:
        if name not in known:
            raise unknown("class", name, splits.classes, where)
        if name not in used:
            raise RequestError(f"{where}: class {name!r} is not selected by classes", "remove it here, or add it there")
    missing = [repr(name) for name in kept if name not in label_map]
    if missing:
        which = f"class {missing[0]} has" if len(missing) == 1 else f"classes {_few(missing)} have"
        raise RequestError(f"{where}: {which} no target", "add one, or select the classes to use with classes: [...]")
    if len(set(label_map.values())) < least:
        raise RequestError(f"{where}: the only target is {next(iter(label_map.values()))!r}", "give two or more")
    return dict(label_map)


def _apply(splits: Splits, mapping: ClassMapping, classes: tuple[str, ...]) -> Splits:
    places = {name: place for place, name in enumerate(classes)}
    labels = [None if target is None else places[target] for target in map(mapping.get, splits.classes)]

    def mapped(split: Split | None) -> Split | None:
        if split is None:
            return None
        if isinstance(split.labels, LabelSets):
            return replace(split, labels=split.labels.mapped(labels, len(classes)))
        new = [labels[old] for old in split.labels]
        kept = [index for index, label in enumerate(new) if label is not None]
        part = split if len(kept) == len(split) else split.subset(kept)
        return replace(part, labels=[label for label in new if label is not None])

    return replace(
        splits, classes=classes, train=mapped(splits.train), val=mapped(splits.val), test=mapped(splits.test)
    )


def _counted(chosen: Splits, splits: Splits) -> str:
    images, before = (sum(len(split) for _, split in one.present()) for one in (chosen, splits))
    if chosen.multilabel:
        labelled = sum(label != () for _, split in chosen.present() for label in split.labels)
        return f"{labelled:,} of {plural(before, 'image')} have a label"
    return f"{images:,} of {plural(before, 'image')}"


def _shown(targets: Mapping[str, str]) -> str:
    sources: dict[str, list[str]] = {}
    for name, target in targets.items():
        sources.setdefault(target, []).append(name)
    return _few([f"{target} from {_few(names, 10)}" for target, names in sources.items()], between="; ")


def _few(names: Iterable[str], most: int = 8, between: str = ", ") -> str:
    names = list(names)
    return between.join(names[:most]) + (f"{between}..." if len(names) > most else "")
