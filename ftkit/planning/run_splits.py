"""The images that a run sees: as the config cuts and draws them, without those that can't be read."""

from __future__ import annotations

from dataclasses import replace

from ftkit.config.load import Resolved, build
from ftkit.data.class_selection import select_classes
from ftkit.data.images import ReadWhole, sample_file
from ftkit.data.loading.lazy_sources import PerThreadOpener
from ftkit.data.plugin_checks import checked_splits, error_prefix, names_in_two_splits
from ftkit.data.sampling import stratified_sample, stratified_split
from ftkit.data.scan.image_scan import scan_images
from ftkit.errors import RequestError
from ftkit.parts.dataset import SPLIT_NAMES, Dataset, Split, Splits
from ftkit.plugin_errors import GuardedOpener, plugin_boundary, plugin_of


def load_splits(resolved: Resolved, for_training: bool = True) -> tuple[Splits, tuple[str, ...]]:
    """The data's splits as the run sees them, and what is worth saying of them.

    Classes are chosen and mapped first, so that everything else goes by what is learnt. A missing validation
    split is taken from the training images, stratified and seeded; then `train_samples` draws from what is
    left, so that the validation images don't depend on it.

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
    if splits.train is not None and splits.val is None:
        kept, taken = stratified_split(splits.train.labels, config.val_fraction, config.seed, splits.classes)
        splits = replace(splits, train=splits.train.subset(kept), val=splits.train.subset(taken))
        notes += (f"no validation split: {len(taken)} of {len(kept) + len(taken)} training images are held out",)
    if splits.train is not None and config.train_samples is not None:
        # Of data that has become less than the run drew from, a model is evaluated all the same.
        count = config.train_samples if for_training else min(config.train_samples, len(splits.train))
        drawn = stratified_sample(splits.train.labels, count, config.seed)
        splits = replace(splits, train=splits.train.subset(drawn))
    return splits, notes


def load_checked(dataset: Dataset, source: str, for_training: bool = True) -> Splits:
    """What a dataset loads to, checked.

    Args:
        source: How messages call it.
        for_training: Take the classes from the training split; otherwise each split may have classes of its own.

    Raises:
        RequestError: The data isn't there, or what `load` returned can't be used.
        PluginError: A plugin's `load` raised something else.
    """
    with plugin_boundary(f"load of {source}", dataset), error_prefix(source):
        found = checked_splits(dataset.load() if for_training else dataset.load_for_evaluation())
    train, val, test = (_guarded(found.get(name), source) for name in SPLIT_NAMES)
    return replace(found, train=train, val=val, test=test)


def _guarded(split: Split | None, source: str) -> Split | None:
    """The split with its images opened by each thread and process for itself, and a plugin's errors put into words."""
    if split is None or not len(split) or sample_file(split, 0) is not None:
        return split
    if plugin_of(split.source(0)[0]) is None:
        return replace(split, open=PerThreadOpener(split.open))
    return replace(split, open=PerThreadOpener(ReadWhole(GuardedOpener(split.open, split.names, source), split.names)))


def splits_of_run(resolved: Resolved) -> tuple[Splits, tuple[str, ...]]:
    """The splits as `load_splits` has them for a trained model, less the images that a run of this config leaves out.

    Where it leaves none out, nothing is opened: a file that has broken since is named when it is read.

    Raises:
        RequestError: The data isn't there any more, or can't be used.
    """
    splits, notes = load_splits(resolved, for_training=False)
    if resolved.config.on_bad_image != "skip":
        return splits, notes
    screened = scan_images(splits, "skip", value_range=resolved.config.dataset.given_range)
    return screened.splits, (*notes, *screened.notes)


def require_classes(splits: Splits) -> None:
    """Refuse data that nothing can be learnt from.

    Raises:
        RequestError: A split or a second class is missing.
    """
    if splits.train is None or not len(splits.train):
        raise RequestError("the dataset has no training split", "give one with a train folder, or another dataset")
    if len(splits.classes) < 2:
        names = ", ".join(splits.classes)
        raise RequestError(f"the data has one class only ({names})", "a classifier needs two or more: add another")
    if splits.val is None or not len(splits.val):
        raise RequestError("the validation split is empty", "give it images, or drop it and let ftkit hold some out")
