"""The images to evaluate a model on: a split of its run's own data, or of other data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftkit.config.load import Resolved, build
from ftkit.data.class_selection import apply_training_classes
from ftkit.errors import RequestError, one_line, plural
from ftkit.evaluation.out_of_fold import OutOfFold, read_out_of_fold
from ftkit.metrics.finite_outputs import NAMED
from ftkit.parts.dataset import Dataset, Split, SplitName, Splits, relabel
from ftkit.parts.label_sets import count_classes
from ftkit.planning.run_data.run_splits import load_checked, splits_of_run
from ftkit.planning.run_data.validation_images import is_cross_fitted
from ftkit.runs.model_card import ModelCard


@dataclass(frozen=True)
class EvaluationData:
    """Images to evaluate a model on, with labels in the order of its classes.

    Attributes:
        source: The dataset or path, for messages.
        name: The split that the images are.
        changed: Whether the data has changed since the model was trained on it.
        notes: Lines to report, such as the number of files left out.
        outputs: The stored outputs for the images, where these are the training images of a cross-fitted run.
        dataset: That the images are from.
    """

    source: str
    name: SplitName
    split: Split
    changed: bool = False
    notes: tuple[str, ...] = ()
    outputs: OutOfFold | None = None
    dataset: Dataset | None = None

    @property
    def title(self) -> str:
        """What the images are called in output."""
        return self.name if self.outputs is None else "out-of-fold"


def split_of_run(
    resolved: Resolved,
    card: ModelCard,
    split: SplitName | None,
    run: Path | None = None,
    loaded: tuple[Splits, tuple[str, ...]] | None = None,
) -> EvaluationData:
    """A split of a run's own data, split as in the run; by default test, else val.

    The validation images of a cross-fitted run are its training images, with the outputs that the run has stored.

    Args:
        run: The run's folder, which has these outputs.
        loaded: The run's splits, and notes on them, where they have been loaded already.

    Raises:
        RequestError: The data is missing, has no such split, or has classes that the model lacks.
    """
    splits, notes = loaded or splits_of_run(resolved)
    dataset: Dataset = build(resolved, "dataset")
    source = f"dataset {resolved.config.dataset.name}"
    changed = splits.fingerprint() != card.fingerprint
    wants_val = split == "val" or not (split or (splits.test and len(splits.test)))
    if run is not None and wants_val and is_cross_fitted(resolved.config):
        found = read_out_of_fold(run)
        note = "out-of-fold: the output for each training image is that of the fold that wasn't trained on it"
        return EvaluationData(
            source, "val", found.split(len(card.classes), splits.train), changed, (*notes, note), found, dataset
        )
    name, chosen = choose_split(splits, split, ("test", "val"), source)
    chosen = relabel(chosen, splits.classes, card.classes, f"{source}, {name} split")
    notes = (*notes, *_absent_note(chosen, card.classes))
    return EvaluationData(source, name, chosen, changed, notes, dataset=dataset)


def split_of_dataset(dataset: Dataset, source: str, card: ModelCard, split: SplitName | None) -> EvaluationData:
    """A split of data that the model wasn't trained on.

    Args:
        source: The dataset or path, for messages.
        split: The split; by default test, else val, else train, which has all images of unsplit data.

    Raises:
        RequestError: The data is missing, has no such split, or has classes that the model lacks.
    """
    loaded = load_checked(dataset, source, for_training=False)
    splits = apply_training_classes(loaded, card.origin, card.classes, source)
    name, chosen = choose_split(splits, split, ("test", "val", "train"), source)
    chosen = relabel(chosen, splits.classes, card.classes, source)
    notes = (*splits.notes, *_absent_note(chosen, card.classes))
    return EvaluationData(source, name, chosen, notes=notes, dataset=dataset)


def _absent_note(split: Split, classes: Sequence[str]) -> tuple[str, ...]:
    """A note on the model's classes without an image, where there are any."""
    there = set(count_classes(split.labels))
    absent = [name for label, name in enumerate(classes) if label not in there]
    if not absent:
        return ()
    few = ", ".join(absent[:NAMED]) + (", ..." if len(absent) > NAMED else "")
    return (one_line(f"no image is of {len(absent):,} of the model's {plural(len(classes), 'class')}: {few}"),)


def choose_split(
    splits: Splits, wanted: SplitName | None, order: Sequence[SplitName], source: str
) -> tuple[SplitName, Split]:
    """The split `wanted`, or the first of `order` that has images.

    Raises:
        RequestError: There is no such split, or it has no image.
    """
    there = {name: split for name, split in splits.present() if len(split)}
    for name in (wanted,) if wanted else order:
        if name in there:
            return name, there[name]
    raise RequestError(
        f"{source} has no {wanted or ' or '.join(order)} split",
        f"it has {', '.join(there)}: give --split {next(iter(there))}" if there else "give other data with --data",
    )
