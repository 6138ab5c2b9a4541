"""The validation images of a run: a split of the data, held-out training images, or the parts of cross-fitting."""

from __future__ import annotations

from dataclasses import replace

from ftkit.config.choices import AUTO, Validation
from ftkit.config.load import Resolved, build
from ftkit.config.schema import Config
from ftkit.data.sampling import stratified_parts, stratified_sample, stratified_split
from ftkit.errors import RequestError, one_line, plural
from ftkit.metrics.finite_outputs import NAMED
from ftkit.parts.callback import replaces_weights
from ftkit.parts.dataset import Split, Splits
from ftkit.parts.label_sets import count_classes
from ftkit.parts.strategy import Strategy

FOLD_KEYS = ("folds", "fold")


MOST_SEARCHED = 5000
"""Most training images that a search with a budget cross-fits: with more, a fifth of them tells recipes apart."""

MOST_CROSS_FITTED = 1000
"""Most training images that a run cross-fits by itself: with more, a fifth of them tells epochs apart."""


def choose_validation(resolved: Resolved, splits: Splits) -> Validation:
    """How the validation images are chosen, `holdout` or `kfold`; the rule for `auto`.

    Args:
        splits: The splits that the dataset has.
    """
    config, train = resolved.config, splits.train
    if config.validation != AUTO:
        return config.validation
    if config.budget is None or train is None or splits.val is not None:
        return "holdout"
    if config.budget != AUTO:
        return "kfold" if len(train) <= MOST_SEARCHED else "holdout"
    if "val_fraction" in resolved.sources or _needs_one_training(resolved) or train.multilabel:
        return "holdout"
    counts = count_classes(_sampled(config, train, for_training=False).labels)
    in_each_part = min(counts.values(), default=0) >= config.folds
    return "kfold" if in_each_part and counts.total() <= MOST_CROSS_FITTED else "holdout"


def _needs_one_training(resolved: Resolved) -> bool:
    """Whether the weights of several trainings can't be averaged: they start at random, or callbacks replace them."""
    strategy: Strategy = build(resolved, "strategy")
    if (resolved.config.weights or strategy.default_weights) == "none":
        return True
    return any(replaces_weights(callback) for callback in build(resolved, "callbacks"))


def is_cross_fitted(config: Config) -> bool:
    """Whether a run trains a model for each fold, and then its own model from these; `auto` counts as no."""
    return config.validation == "kfold" and config.fold is None


def with_one_recipe(resolved: Resolved) -> Resolved:
    """The request without what `auto` would add to one training: cross-fitting and a search."""
    config, update = resolved.config, dict[str, object]()
    if config.budget == AUTO:
        update["budget"] = None
        if config.validation == AUTO:
            update["validation"] = "holdout"
    return replace(resolved, config=config.model_copy(update=update))


def single_training(resolved: Resolved) -> Resolved:
    """The request for trainings before a run: of the first fold where cross-fitting is asked for."""
    resolved = with_one_recipe(resolved)
    if not is_cross_fitted(resolved.config):
        return resolved
    return replace(resolved, config=resolved.config.model_copy(update={"fold": 1}))


def with_validation(resolved: Resolved, splits: Splits, for_training: bool) -> tuple[Splits, tuple[str, ...]]:
    """The splits of a run with its training and validation images, and notes on them.

    A cross-fitted run has all training images in `train`, and no validation split.

    Args:
        for_training: See `load_splits`.

    Raises:
        RequestError: A class has too few images, or a setting has no effect.
    """
    if splits.train is None:
        return splits, ()
    if not for_training:
        resolved = with_one_recipe(resolved)  # The config of a run names the choice; older versions made none.
    if choose_validation(resolved, splits) == "kfold":
        return _cross_fitted(resolved, splits, for_training)
    _refuse_fold_keys(resolved)
    config, train, val = resolved.config, splits.train, splits.val
    notes: tuple[str, ...] = ()
    if val is None:
        kept, taken = stratified_split(train.labels, config.val_fraction, config.seed, splits.classes)
        train, val = train.subset(kept), train.subset(taken)
        notes = (f"no validation split: {len(taken)} of {len(kept) + len(taken)} training images are held out",)
    # Drawn from what is left, so that the validation images don't depend on it.
    return replace(splits, train=_sampled(config, train, for_training), val=val), notes


def fold_parts(config: Config, train: Split, classes: tuple[str, ...] = ()) -> list[list[int]]:
    """The positions of the images of each part of cross-fitting.

    Args:
        train: All training images that are used.

    Raises:
        RequestError: A class has one image, or there are fewer images than parts.
    """
    return stratified_parts(train.labels, config.folds, config.seed, classes)


def fold_sizes(config: Config, splits: Splits) -> tuple[int, ...]:
    """The number of images of each part of a cross-fitted run; empty for other runs."""
    if not is_cross_fitted(config) or splits.train is None:
        return ()
    return tuple(map(len, fold_parts(config, splits.train, splits.classes)))


def validated_splits(config: Config, splits: Splits) -> list[Split]:
    """The images of each validation of a run: its validation split, or each part of a cross-fitted run."""
    if splits.val is not None or splits.train is None:
        return [] if splits.val is None else [splits.val]
    return [splits.train.subset(part) for part in fold_parts(config, splits.train, splits.classes)]


def _cross_fitted(resolved: Resolved, splits: Splits, for_training: bool) -> tuple[Splits, tuple[str, ...]]:
    config, where = resolved.config, resolved.where
    assert splits.train is not None, "with_validation returns such data as it is"
    if splits.val is not None and for_training:
        raise RequestError(
            f"{where('validation')}: kfold is for data without a validation split, and this data has one",
            "drop it, or move these images to the training split",
        )
    if resolved.is_explicit("val_fraction"):
        raise RequestError(f"{where('val_fraction')} has no effect with kfold: no images are held out", "drop it")
    if config.fold is not None and config.fold > config.folds:
        raise RequestError(f"{where('fold')} is {config.fold}, but there are {config.folds} folds", "give 1 or more")
    train = _sampled(config, splits.train, for_training)
    if config.fold is None:
        return replace(splits, train=train), _rare_notes(config, train, splits.classes)
    parts = fold_parts(config, train, splits.classes)
    taken = parts.pop(config.fold - 1)
    kept = sorted(place for part in parts for place in part)
    note = f"fold {config.fold} of {config.folds}: {len(taken)} of {len(train)} training images are for validation"
    return replace(splits, train=train.subset(kept), val=train.subset(taken)), (note,)


def _sampled(config: Config, train: Split, for_training: bool) -> Split:
    """The training images, or `train_samples` of them."""
    if config.train_samples is None:
        return train
    # A trained model can be evaluated on data that has shrunk since.
    count = config.train_samples if for_training else min(config.train_samples, len(train))
    return train.subset(stratified_sample(train.labels, count, config.seed))


def _rare_notes(config: Config, train: Split, classes: tuple[str, ...]) -> tuple[str, ...]:
    """A note on classes with fewer images than there are folds."""
    rare = [classes[label] for label, count in sorted(count_classes(train.labels).items()) if count < config.folds]
    if not rare:
        return ()
    few = ", ".join(map(repr, rare[:NAMED])) + (", ..." if len(rare) > NAMED else "")
    many = plural(len(rare), "class has", "classes have")
    return (one_line(f"{many} fewer images than {config.folds} folds, so not each fold validates them: {few}"),)


def _refuse_fold_keys(resolved: Resolved) -> None:
    for key in FOLD_KEYS:
        if resolved.is_explicit(key) or (key == "fold" and resolved.config.fold is not None):
            raise RequestError(f"{resolved.where(key)} has no effect without kfold", "give --validation kfold too")
