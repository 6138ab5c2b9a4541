"""The validation images of a run: a split of the data, held-out training images, or the parts of cross-fitting."""

from __future__ import annotations

from dataclasses import replace

from ftkit.config.choices import AUTO, Validation
from ftkit.config.load import Resolved, build
from ftkit.config.schema import Config
from ftkit.data.sampling import sample_by_key, stratified_parts, stratified_split
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
    if resolved.config.validation != AUTO:
        return resolved.config.validation
    return "kfold" if why_held_out(resolved, splits) is None else "holdout"


def why_held_out(resolved: Resolved, splits: Splits) -> str | None:
    """Why `auto` holds images out; None where it cross-fits."""
    config, train = resolved.config, splits.train
    if train is None or splits.val is not None:
        return "the data has a validation split"
    if config.budget is None:
        return "budget is none"
    most = MOST_CROSS_FITTED if config.budget == AUTO else MOST_SEARCHED
    if config.train_samples is not None and config.train_samples < len(train):
        return "train_samples leaves images to validate on"
    if len(train) > most:
        return f"there are {len(train):,} training images, and auto cross-fits {most:,} at most"
    if config.on_bad_image == "skip" and config.scan != "full":
        return "unreadable images are left out, and not all are read before training"
    return _why_one_training(resolved, train) if config.budget == AUTO else None


def _why_one_training(resolved: Resolved, train: Split) -> str | None:
    """Why the images can't be divided into folds, or the weights of several trainings not averaged."""
    config = resolved.config
    strategy: Strategy = build(resolved, "strategy")
    for key in ("val_fraction", "val_samples"):
        if key in resolved.sources and getattr(config, key) is not None:
            return f"{key} is set"
    if train.multilabel:
        return "an image may have several labels"
    if (config.weights or strategy.default_weights) == "none":
        return "the weights start at random"
    if any(replaces_weights(callback) for callback in build(resolved, "callbacks")):
        return "a callback brings weights of its own"
    counts = count_classes(train.labels)
    if min(counts.values(), default=0) < config.folds:
        return f"a class has fewer images than {config.folds} folds"
    return None


def is_cross_fitted(config: Config) -> bool:
    """Whether a run trains a model for each fold, and then its own model from these; `auto` counts as no."""
    return config.validation == "kfold" and config.fold is None


def with_one_recipe(resolved: Resolved) -> Resolved:
    """The request without what `auto` would add to one training: cross-fitting and a search."""
    config, sources = resolved.config, resolved.sources
    if config.budget != AUTO:
        return resolved
    update: dict[str, object] = {"budget": None}
    if config.validation == AUTO:
        update["validation"] = "holdout"
        sources = {key: where for key, where in sources.items() if key != "folds"}  # They are those of the run.
    return replace(resolved, config=config.model_copy(update=update), sources=sources)


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
    _refuse_fold_keys(resolved, splits)
    config, train, val = resolved.config, splits.train, splits.val
    notes: tuple[str, ...] = ()
    if val is None:
        kept, taken = stratified_split(train.labels, config.val_fraction, config.seed, splits.classes)
        train, val = train.subset(kept), train.subset(taken)
        notes = (f"no validation split: {len(taken)} of {len(kept) + len(taken)} training images are held out",)
    # Drawn from what is left, so that the validation images don't depend on it.
    train = _sampled(train, "train_samples", config, for_training)
    return replace(splits, train=train, val=_sampled(val, "val_samples", config, for_training)), notes


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
    if config.on_bad_image == "skip" and config.scan != "full":
        raise RequestError(
            f"{where('scan')}: with kfold, unreadable images are left out only if all are read before training",
            "give --scan full",
        )
    assert splits.train is not None, "with_validation returns such data as it is"
    if splits.val is not None and for_training:
        raise RequestError(
            f"{where('validation')}: kfold is for data without a validation split, and this data has one",
            "drop it, or move these images to the training split",
        )
    # A run's own config names the default of `val_fraction`.
    idle = {"val_fraction": resolved.is_explicit("val_fraction"), "val_samples": config.val_samples is not None}
    for key in (key for key, is_set in idle.items() if is_set):
        raise RequestError(f"{where(key)} has no effect with kfold: each image validates once", "drop it")
    if config.fold is not None and config.fold > config.folds:
        raise RequestError(f"{where('fold')} is {config.fold}, but there are {config.folds} folds", "give 1 or more")
    train = _sampled(splits.train, "train_samples", config, for_training)
    if config.fold is None:
        return replace(splits, train=train), _rare_notes(config, train, splits.classes)
    parts = fold_parts(config, train, splits.classes)
    taken = parts.pop(config.fold - 1)
    kept = sorted(place for part in parts for place in part)
    note = f"fold {config.fold} of {config.folds}: {len(taken)} of {len(train)} training images are for validation"
    return replace(splits, train=train.subset(kept), val=train.subset(taken)), (note,)


def _sampled(split: Split, key: str, config: Config, for_training: bool) -> Split:
    """The images of a split, or as many of them as a config key sets."""
    count: int | None = getattr(config, key)
    if count is None:
        return split
    # A trained model can be evaluated on data that has shrunk since.
    count = count if for_training else min(count, len(split))
    return split.subset(sample_by_key(split.labels, count, config.seed, key))


def _rare_notes(config: Config, train: Split, classes: tuple[str, ...]) -> tuple[str, ...]:
    """A note on classes with fewer images than there are folds."""
    rare = [classes[label] for label, count in sorted(count_classes(train.labels).items()) if count < config.folds]
    if not rare:
        return ()
    few = ", ".join(map(repr, rare[:NAMED])) + (", ..." if len(rare) > NAMED else "")
    many = plural(len(rare), "class has", "classes have")
    return (one_line(f"{many} fewer images than {config.folds} folds, so not each fold validates them: {few}"),)


def _refuse_fold_keys(resolved: Resolved, splits: Splits) -> None:
    for key in FOLD_KEYS:
        if resolved.is_explicit(key) or (key == "fold" and resolved.config.fold is not None):
            reason = why_held_out(resolved, splits) if resolved.config.validation == AUTO else None
            why = f": images are held out, since {reason}" if reason else ""
            hint = "drop it, or change that" if reason else "give --validation kfold too"
            raise RequestError(f"{resolved.where(key)} has no effect without kfold{why}", hint)
