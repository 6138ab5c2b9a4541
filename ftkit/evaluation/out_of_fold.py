"""Out-of-fold outputs of a cross-fitted run: for each training image, those of the model that wasn't trained on it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ftkit.data.images.reading import UnreadableImage
from ftkit.errors import RequestError
from ftkit.files.durable import replace_file
from ftkit.files.json_text import escape_undecodable
from ftkit.metrics.outputs import Outputs
from ftkit.parts.dataset import Split
from ftkit.parts.label_sets import Label, LabelSets, label_text
from ftkit.parts.task import Task
from ftkit.runs.run_folder import RunFolder
from ftkit.uncertainty.calibrated_network import calibrated_logits
from ftkit.uncertainty.calibration import Calibration, calibrated_decision

COLUMNS = ("image", "label", "predicted", "fold")


@dataclass(frozen=True)
class OutOfFold:
    """The outputs for all training images, in the order of the training split.

    Attributes:
        names: Names of the images, as in `splits.csv`.
        folds: The fold that validated each image, from 1.
        targets: The result of `Task.targets`.
        logits: float32 `(n, classes)`.
    """

    names: tuple[str, ...]
    folds: tuple[int, ...]
    targets: Tensor
    logits: Tensor

    def split(self, classes: int, train: Split | None = None) -> Split:
        """The images as a split.

        Args:
            train: The training images, which have these names; without them, or where one of them isn't there any
                more, the images can't be opened.
        """
        labels: Sequence[int] | LabelSets
        if self.targets.ndim == 1:
            labels = self.targets.tolist()
        else:
            labels = LabelSets((row.nonzero().flatten().tolist() for row in self.targets), classes)
        known = {name: place for place, name in enumerate(train.names)} if train is not None else {}
        places = [known[name] for name in self.names if name in known]
        if train is None or len(places) < len(self.names):
            return Split(self.names, labels, _refuse)
        return replace(train.subset(places), labels=labels)


def write_out_of_fold(
    run: RunFolder,
    found: OutOfFold,
    classes: Sequence[str],
    task: Task,
    decision: Mapping[str, Any],
    calibration: Calibration | None = None,
) -> None:
    """Write the outputs as a table for people, and as tensors; both are on disk when this returns.

    Args:
        decision: What turns uncalibrated scores into predictions.
        calibration: Of the scores in the table; the tensors are uncalibrated.

    Raises:
        FtkitError: They can't be written.
    """
    applied = calibrated_decision(decision, calibration, len(classes))
    outputs = task.outputs(calibrated_logits(found.logits, calibration), found.targets, classes, applied)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow((*COLUMNS, *classes))
    predicted = _labels(outputs)
    labels: Sequence[Label] = found.split(len(classes)).labels
    rows = zip(found.names, labels, predicted, found.folds, outputs.scores.tolist(), strict=True)
    for name, label, guess, fold, scores in rows:
        writer.writerow((name, label_text(label, classes), label_text(guess, classes), fold, *scores))
    replace_file(run.out_of_fold, escape_undecodable(text.getvalue()).encode())
    tensors = {"logits": found.logits.contiguous(), "targets": found.targets.contiguous()}
    replace_file(run.out_of_fold_outputs, save(tensors))


def read_out_of_fold(folder: Path) -> OutOfFold:
    """The stored outputs of a cross-fitted run.

    Raises:
        RequestError: A file is missing or damaged.
    """
    run = RunFolder(folder)
    try:
        with run.out_of_fold.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        tensors = load_file(run.out_of_fold_outputs)
        names, folds = tuple(row["image"] for row in rows), tuple(int(row["fold"]) for row in rows)
        found = OutOfFold(names, folds, tensors["targets"], tensors["logits"])
        if not len(found.names) == len(found.targets) == len(found.logits):
            raise ValueError("they have other numbers of images")
    except FileNotFoundError as error:
        raise RequestError(
            f"{error.filename} is missing: the run isn't finished, or it was removed",
            f"resume {folder}, or repeat it",
        ) from None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RequestError(
            f"{run.out_of_fold} and {run.out_of_fold_outputs.name} aren't what ftkit wrote: {error}",
            "put them back, or train the run again",
        ) from None
    return found


def _labels(outputs: Outputs) -> list[Label]:
    """The predicted label or labels of each image."""
    if outputs.predicted.ndim == 1:
        return [int(one) for one in outputs.predicted]
    return [tuple(row.nonzero()[0].tolist()) for row in outputs.predicted]


def _refuse(index: int) -> Any:
    raise UnreadableImage(f"image {index} of the stored outputs isn't among the images of the run")
