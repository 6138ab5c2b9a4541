"""The splits of a run: classes selected, validation images held out, training images sampled."""

from __future__ import annotations

from dataclasses import replace

from ftkit.config.load import Resolved, build
from ftkit.data.class_selection import select_classes
from ftkit.data.images import ReadWhole, sample_file
from ftkit.data.loading.lazy_sources import PerThreadOpener
from ftkit.data.plugin_checks import checked_splits, error_prefix, names_in_two_splits
from ftkit.data.scan.image_scan import scan_images
from ftkit.errors import RequestError
from ftkit.parts.dataset import SPLIT_NAMES, Dataset, Split, Splits
from ftkit.planning.run_data.validation_images import with_validation
from ftkit.plugin_errors import GuardedOpener, plugin_boundary, plugin_of


def load_splits(resolved: Resolved, for_training: bool = True) -> tuple[Splits, tuple[str, ...]]:
    """The splits of a run, and notes on them.

    First classes are selected and mapped, then the validation images are chosen, see `with_validation`.

    Args:
        for_training: Refuse classes that only val or test have, and selected classes that the data lacks. Otherwise
            the data is for a trained model, whose classes the caller matches by name.
    """
    config = resolved.config
    dataset = build(resolved, "dataset")
    splits = load_checked(dataset, f"dataset {config.dataset.name!r}", for_training)
    places = resolved.where("classes"), resolved.where("label_map")
    used, label_map = config.classes, config.label_map
    if not for_training:
        there = set(splits.classes)
        used = None if used is None else tuple(name for name in used if name in there)
        label_map = label_map and {name: label_map.get(name, name) for name in (used or splits.classes)}
    splits = select_classes(splits, used, label_map, places)
    notes = (*splits.notes, *names_in_two_splits(splits))
    splits, own = with_validation(resolved, splits, for_training)
    return splits, (*notes, *own)


def load_checked(dataset: Dataset, source: str, for_training: bool = True) -> Splits:
    """The splits that a dataset loads, checked.

    Args:
        source: Its name in messages.
        for_training: Take the classes from the training split; otherwise each split may have classes of its own.

    Raises:
        RequestError: The data is missing, or `load` returned something invalid.
        PluginError: A plugin's `load` raised something else.
    """
    with plugin_boundary(f"load of {source}", dataset), error_prefix(source):
        found = checked_splits(dataset.load() if for_training else dataset.load_for_evaluation())
    train, val, test = (_guarded(found.get(name), source) for name in SPLIT_NAMES)
    return replace(found, train=train, val=val, test=test)


def _guarded(split: Split | None, source: str) -> Split | None:
    """The split with an opener for each thread and process, and with error messages for a plugin's opener."""
    if split is None or not len(split) or sample_file(split, 0) is not None:
        return split
    if plugin_of(split.source(0)[0]) is None:
        return replace(split, open=PerThreadOpener(split.open))
    return replace(split, open=PerThreadOpener(ReadWhole(GuardedOpener(split.open, split.names, source), split.names)))


def splits_of_run(resolved: Resolved) -> tuple[Splits, tuple[str, ...]]:
    """The splits for a trained model, without the unreadable images if `on_bad_image` is skip.

    With `on_bad_image: error` no image is opened; an unreadable one fails when it is read.

    Raises:
        RequestError: The data is missing or invalid.
    """
    splits, notes = load_splits(resolved, for_training=False)
    if resolved.config.on_bad_image != "skip":
        return splits, notes
    # With a partial scan, unreadable training images were skipped during the run; the others are read now anyway.
    evaluated = splits if resolved.config.scan == "full" else replace(splits, train=None)
    screened = scan_images(evaluated, "skip", value_range=resolved.config.dataset.given_range)
    kept = screened.splits if evaluated is splits else replace(screened.splits, train=splits.train)
    return kept, (*notes, *screened.notes)


def require_classes(splits: Splits, cross_fitted: bool = False) -> None:
    """Refuse data without training images, a second class (several labels per image: a first one) or validation images.

    Args:
        cross_fitted: The validation images are parts of the training images.

    Raises:
        RequestError: One of them is missing.
    """
    if splits.train is None or not len(splits.train):
        raise RequestError("the dataset has no training split", "give one with a train folder, or another dataset")
    if splits.multilabel and not splits.classes:
        raise RequestError("no training image has a label", "check the column or columns of labels")
    if len(splits.classes) < 2 and not splits.multilabel:
        names = ", ".join(splits.classes)
        raise RequestError(f"the data has one class only ({names})", "a classifier needs two or more: add another")
    if not cross_fitted and (splits.val is None or not len(splits.val)):
        raise RequestError("the validation split is empty", "give it images, or drop it and let ftkit hold some out")
