"""The prediction for an image, and its decoding from logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ftkit.inference.uncertain_predictions import UncertaintyRule
from ftkit.metrics.finite_outputs import NOT_FINITE, finite_rows
from ftkit.models.bundle import Loaded

Ranked = tuple[tuple[str, float], ...]
"""Classes with their probabilities, best first."""


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for one image.

    Attributes:
        name: The path as it was given; for an image in memory, its file's name or its position, from 0.
        label: The likeliest class; None where there is an `error`, and where the model abstains.
        probability: Probability of that class, from 0 to 1.
        top: The likeliest classes with their probabilities, best first.
        labels: The classes above their thresholds with their probabilities, best first, for an image with several
            classes; None where each image has one class.
        prediction_set: The classes that include the true one as often as the `coverage` that was asked for says, with
            their probabilities, best first; None if none was.
        abstained: Whether there is no label because the likeliest class isn't probable enough.
        novelty: Part of the model's validation images that are at least as unlike them as this one; None unless it was
            asked for.
        unlike: Whether that part is at most the rate that was asked for.
        error: Why there is no prediction, or None: the image can't be read, or the model's outputs are not finite.
    """

    name: str
    label: str | None
    probability: float | None
    top: Ranked = ()
    error: str | None = None
    labels: Ranked | None = None
    prediction_set: Ranked | None = None
    abstained: bool = False
    novelty: float | None = None
    unlike: bool = False


@dataclass(frozen=True)
class Decoder:
    """Predictions from the logits of a model.

    Attributes:
        top_k: Number of classes of each prediction.
        rule: Prediction sets and rejection.
    """

    loaded: Loaded
    top_k: int
    rule: UncertaintyRule

    def __call__(self, logits: Tensor, features: Tensor | None = None) -> list[Prediction]:
        """The predictions of images, yet without a name, from their logits `(b, classes)`.

        Args:
            features: See `UncertaintyRule.novelty`.
        """
        found, novelty = self._classified(logits), self.rule.novelty(logits, features)
        if novelty is None:
            return found
        return [
            one if one.error else replace(one, novelty=value, unlike=value <= self.rule.rate)
            for one, value in zip(found, novelty, strict=True)
        ]

    def _classified(self, logits: Tensor) -> list[Prediction]:
        task, rule = self.loaded.task, self.rule
        scores = task.scores(logits.float())
        values, indices = scores.topk(self.top_k, dim=1)
        rows = zip(finite_rows(logits).tolist(), indices.tolist(), values.tolist(), strict=True)
        tops = [self._named(order, probabilities) if usable else () for usable, order, probabilities in rows]
        if task.exclusive:
            sets = rule.sets(logits)
            if sets is None:
                return [self._exclusive(top) for top in tops]
            each = zip(tops, sets, scores.tolist(), strict=True)
            return [
                replace(self._exclusive(top), prediction_set=self._named(members, [own[i] for i in members]))
                if top
                else self._exclusive(top)
                for top, members, own in each
            ]
        decision = self.loaded.card.applied_decision
        chosen = [(row, task.predicted(row, decision)) for row in scores.tolist()]
        labels = [self._named(order, [row[i] for i in order]) for row, order in chosen]
        return [
            Prediction("", *top[0], top, labels=own) if top else Prediction("", None, None, error=NOT_FINITE)
            for top, own in zip(tops, labels, strict=True)
        ]

    def _exclusive(self, top: Ranked) -> Prediction:
        """The prediction of an image that has one class; without likeliest classes its outputs are not finite."""
        if not top:
            return Prediction("", None, None, error=NOT_FINITE)
        (label, probability), *_ = top
        threshold = self.rule.threshold
        abstained = threshold is not None and probability < threshold
        return Prediction("", None if abstained else label, probability, top, abstained=abstained)

    def _named(self, indices: Sequence[int], probabilities: Sequence[float]) -> Ranked:
        classes = self.loaded.card.classes
        return tuple((classes[index], p) for index, p in zip(indices, probabilities, strict=True))
