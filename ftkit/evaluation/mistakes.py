"""The images with a wrong prediction, and how confident the model was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ftkit.data.images.image_files import sample_name
from ftkit.errors import RequestError
from ftkit.metrics.multiclass_outputs import MulticlassOutputs
from ftkit.metrics.multilabel_outputs import MultilabelOutputs
from ftkit.metrics.outputs import Outputs
from ftkit.parts.dataset import Split
from ftkit.parts.label_sets import label_set
from ftkit.parts.metric import Array

BLOCK = 2**20
"""Probabilities that are held at a time."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """Some images with their predictions, the most confident first.

    Attributes:
        places: Positions of the images, int64 `(m,)`.
        scores: The probability of the prediction, float64 `(m,)`. Where images have several labels, that of the
            decision on one class: of its most confident wrong one for a wrong prediction, otherwise of its least
            confident one.
        margins: The probability of the prediction less that of the label, float64 `(m,)`. Where images have several
            labels, the distance of the probability of that class from its threshold.
    """

    places: Array
    scores: Array
    margins: Array

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction.

    Attributes:
        image: The path of the file, else the name of the image.
        label, predicted: Names of classes: one each, or any number where images have several labels. `predicted` is
            empty where the outputs are not finite.
        score, margin: As in `Ranked`; NaN where the outputs are not finite.
    """

    image: str
    label: tuple[str, ...]
    predicted: tuple[str, ...]
    score: float
    margin: float


def find_mistakes(outputs: Outputs) -> Ranked:
    """The images whose prediction isn't entirely right, the most confident first.

    Raises:
        RequestError: The task has outputs of a kind of its own.
    """
    places = np.flatnonzero(~outputs.right)
    return _ranked(places, *_confidence(outputs, places, wrong=True), ascending=False)


def find_least_confident(outputs: Outputs) -> Ranked:
    """The images whose prediction is entirely right, the least confident first; errors as `find_mistakes`."""
    places = np.flatnonzero(outputs.right)
    return _ranked(places, *_confidence(outputs, places, wrong=False), ascending=True)


def mistakes_of(ranked: Ranked, outputs: Outputs, split: Split) -> Iterator[Mistake]:
    """The mistakes as text, in their order.

    Args:
        split: The images of the outputs, in their order.
    """
    classes = outputs.classes
    rows = zip(ranked.places.tolist(), ranked.scores.tolist(), ranked.margins.tolist(), strict=True)
    for place, score, margin in rows:
        label = tuple(classes[index] for index in label_set(split.labels[place]))
        predicted = tuple(classes[index] for index in predicted_classes(outputs, place))
        yield Mistake(sample_name(split, place), label, predicted, score, margin)


def predicted_classes(outputs: Outputs, place: int) -> tuple[int, ...]:
    """The indices of the classes that are predicted for an image; none where its outputs are not finite."""
    found = outputs.predicted[place]
    if outputs.predicted.ndim == 1:
        return (int(found),) if found >= 0 else ()
    return tuple(found.nonzero()[0].tolist())


def _ranked(places: Array, scores: Array, margins: Array, ascending: bool) -> Ranked:
    # NaN is sorted last in both directions; images with equal scores stay in the order of the split.
    order = np.argsort(scores if ascending else -scores, kind="stable")
    return Ranked(places[order], scores[order], margins[order])


def _confidence(outputs: Outputs, places: Array, wrong: bool) -> tuple[Array, Array]:
    """Scores and margins of images, as `Ranked` has them."""
    if isinstance(outputs, MulticlassOutputs):
        taken = outputs.take(places)
        scores = np.where(taken.finite, taken.confidence, np.nan)
        return scores, scores - np.exp(-taken.losses)
    if isinstance(outputs, MultilabelOutputs):
        return _decisions(outputs, places, wrong)
    raise RequestError(f"task {outputs.task!r} has outputs of a kind of its own, so mistakes can't be ranked")


def _decisions(outputs: MultilabelOutputs, places: Array, wrong: bool) -> tuple[Array, Array]:
    """The most confident of the wrong decisions on single classes, or the least confident of all, for each image."""
    scores, margins = np.empty(len(places)), np.empty(len(places))
    thresholds, size = np.array(outputs.thresholds), max(1, BLOCK // len(outputs.classes))
    for start in range(0, len(places), size):
        part = outputs.take(places[start : start + size])
        probabilities, rows = part.scores, np.arange(len(part))
        confidence = np.where(part.predicted, probabilities, 1 - probabilities)
        if wrong:
            chosen = np.where(part.predicted != part.targets, confidence, -1.0).argmax(axis=1)
        else:
            chosen = confidence.argmin(axis=1)
        usable = part.finite
        scores[start : start + size] = np.where(usable, confidence[rows, chosen], np.nan)
        distance = np.abs(probabilities[rows, chosen] - thresholds[chosen])
        margins[start : start + size] = np.where(usable, distance, np.nan)
    return scores, margins
