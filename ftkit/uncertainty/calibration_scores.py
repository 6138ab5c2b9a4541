"""What a model stores of calibration images: the scores of their true classes, and its confidence in them.

The file `conformal.json` lies beside the model's card. It holds only for that model, whose digests are its key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ftkit.errors import RequestError, plural
from ftkit.files.checked_json import read_checked, write_checked
from ftkit.metrics.multiclass_outputs import MulticlassOutputs
from ftkit.parts.metric import Array
from ftkit.uncertainty.conformal_scores import least_images, limits_by_class, quantile, true_scores
from ftkit.uncertainty.set_methods import METHODS, SetMethod

FILE = "conformal.json"
MOST_STORED, STORED_PER_CLASS = 10_000, 100
"""Images that are stored, at most: a random sample of so many, or of so many a class if that is more."""
UNITS = 1e9
"""Inverse of the precision of stored numbers."""


@dataclass(frozen=True, eq=False)
class CalibrationScores:
    """Scores of calibration images, which the model was neither trained nor selected on.

    Attributes:
        source: What the images are.
        cross_fitted: Whether the outputs are of the models of the folds that were not trained on the image.
        targets: Class indices, int64 `(n,)`.
        scores: The score of the true class by method, float64 `(n,)` each.
        confidence: Probability of the predicted class, float64 `(n,)`.
        right: Whether the prediction is right, bool `(n,)`.
    """

    source: str
    cross_fitted: bool
    targets: Array
    scores: Mapping[SetMethod, Array]
    confidence: Array
    right: Array

    def __len__(self) -> int:
        return len(self.targets)

    def limit(self, method: SetMethod, coverage: float) -> float:
        """The largest score in a set.

        Raises:
            RequestError: There are too few images for the coverage.
        """
        if len(self) < least_images(coverage):
            raise RequestError(
                f"coverage {coverage:g} needs {least_images(coverage):,} calibration images, and the model has "
                f"{len(self):,}",
                "give a lower coverage, or more images to ftkit calibrate",
            )
        return quantile(np.sort(self.scores[method]), coverage)

    def class_limits(self, method: SetMethod, coverage: float, classes: int) -> Array:
        """The largest score of each class in a set, float64 `(classes,)`; infinite for classes of too few images."""
        own = [np.sort(self.scores[method][self.targets == label]) for label in range(classes)]
        return limits_by_class(own, coverage)

    @property
    def describe(self) -> str:
        """One clause on the images."""
        return f"{plural(len(self), 'calibration image')} of {self.source}"


def scores_of(outputs: MulticlassOutputs, source: str, cross_fitted: bool) -> CalibrationScores:
    """The scores of images by their outputs, finite for each image; of very many images those of a random sample."""
    most = max(MOST_STORED, STORED_PER_CLASS * len(outputs.classes))
    if len(outputs) > most:
        outputs = outputs.take(np.sort(np.random.default_rng(0).permutation(len(outputs))[:most]))
    probabilities = outputs.scores
    # Rounded to the side on which the images themselves stay in.
    scores = {each: np.ceil(true_scores(probabilities, outputs.targets, each) * UNITS) / UNITS for each in METHODS}
    confidence = np.floor(outputs.confidence * UNITS) / UNITS
    return CalibrationScores(source, cross_fitted, outputs.targets, scores, confidence, outputs.right)


def write_scores(folder: Path, identity: str, scores: CalibrationScores) -> None:
    """Write the scores beside a model's card.

    Args:
        identity: What the scores are of, as `model_identity` gives it.

    Raises:
        OSError: The folder can't be written.
    """
    value = {
        "source": scores.source,
        "cross_fitted": scores.cross_fitted,
        "targets": scores.targets.tolist(),
        "scores": {method: scores.scores[method].tolist() for method in METHODS},
        "confidence": scores.confidence.tolist(),
        "right": scores.right.astype(int).tolist(),
    }
    write_checked(folder / FILE, identity, value)


def read_scores(folder: Path, identity: str) -> CalibrationScores:
    """The scores of a model.

    Raises:
        RequestError: It has none, or the file is damaged or belongs to another model.
    """
    if not (folder / FILE).is_file():
        raise RequestError(
            f"{folder} has no calibration images, which prediction sets and --reject-risk need",
            "give it some with ftkit calibrate RUN --data FOLDER, or train with --validation kfold",
        )
    value = read_checked(folder / FILE, identity)
    if value is None:
        raise RequestError(
            f"{folder / FILE}: it is damaged, or belongs to another model", "write it anew with ftkit calibrate"
        )
    return _decoded(value)


def _decoded(value: Mapping[str, Any]) -> CalibrationScores:
    return CalibrationScores(
        source=str(value["source"]),
        cross_fitted=bool(value["cross_fitted"]),
        targets=np.array(value["targets"], dtype=np.int64),
        scores={method: np.array(value["scores"][method], dtype=float) for method in METHODS},
        confidence=np.array(value["confidence"], dtype=float),
        right=np.array(value["right"], dtype=bool),
    )
