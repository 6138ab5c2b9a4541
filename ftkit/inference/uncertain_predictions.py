"""Prediction sets and rejection, as they are asked for, applied to the outputs of a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from ftkit.errors import RequestError, plural, unknown
from ftkit.files.folder_swap import current_folder
from ftkit.inference.head_features import flat_features
from ftkit.parts.metric import Array
from ftkit.runs.model_card import ModelCard, card_digest
from ftkit.uncertainty.calibration_scores import CalibrationScores, read_scores
from ftkit.uncertainty.conformal_scores import FREE_RANKS, set_members
from ftkit.uncertainty.feature_reference import FeatureReference, read_reference
from ftkit.uncertainty.novelty import energies, novelties
from ftkit.uncertainty.reference_outputs import ReferenceOutputs
from ftkit.uncertainty.rejection import rejection_rule, rejection_rules
from ftkit.uncertainty.set_methods import METHODS, SetMethod


@dataclass(frozen=True)
class Uncertainty:
    """Prediction sets, rejection and novelty, as requested of `predict`.

    Attributes:
        coverage: Give the smallest set of classes that holds the true one this often, between 0 and 1.
        sets: How sets are made: `lac`, `aps` or `raps`; see `ftkit.uncertainty.conformal_scores`.
        by_class: Hold the coverage for the images of each class, instead of for all together.
        min_confidence: Abstain where the likeliest class has a lower probability.
        novelty: Say how unlike the validation images each image is, and flag those that are so to a degree that this
            part of the validation images is.
        reject_risk: Abstain below the probability above which at most this part of the predictions is wrong.
    """

    coverage: float | None = None
    sets: SetMethod | None = None
    by_class: bool = False
    min_confidence: float | None = None
    reject_risk: float | None = None
    novelty: float | None = None

    @property
    def has_sets(self) -> bool:
        return self.coverage is not None

    @property
    def abstains(self) -> bool:
        return self.min_confidence is not None or self.reject_risk is not None

    def check(self) -> None:
        """Refuse values out of bounds, and values without effect.

        Raises:
            RequestError: Names the value.
        """
        check_values(self)


def check_values(asked: Uncertainty, flag: str = "") -> None:
    """As `Uncertainty.check`, with `flag` before names in messages: `--` where they are flags."""
    for name, value in (("coverage", asked.coverage), ("reject-risk", asked.reject_risk), ("novelty", asked.novelty)):
        if value is not None and not 0 < value < 1:
            raise RequestError(f"{flag}{name} is {value:g}", "give a number between 0 and 1")
    if asked.min_confidence is not None and not 0 < asked.min_confidence <= 1:
        raise RequestError(f"{flag}min-confidence is {asked.min_confidence:g}", "give a number above 0, up to 1")
    if asked.min_confidence is not None and asked.reject_risk is not None:
        raise RequestError(
            f"{flag}min-confidence and {flag}reject-risk both set the lowest confidence", "give one of them"
        )
    if asked.sets is not None and asked.sets not in METHODS:
        raise unknown(f"{flag}sets", str(asked.sets), METHODS)
    if asked.coverage is None and (asked.sets is not None or asked.by_class):
        name = "by-class" if asked.sets is None else "sets"
        raise RequestError(f"{flag}{name} has no effect without {flag}coverage", f"give {flag}coverage too")


@dataclass(frozen=True, eq=False)
class UncertaintyRule:
    """What is done to the outputs of one model.

    Attributes:
        limits: The largest score of a class in a set: one, or one for each class; None without sets.
        threshold: The lowest confidence of a prediction; None to predict always.
        reference: What images are compared with for their novelty; None without it.
        features: Features of training images, which the novelty then depends on too.
        rate: Part of the reference images that are flagged.
        exclusive: Whether an image has one class.
        notes: Lines to report.
    """

    method: SetMethod = "lac"
    limits: float | Array | None = None
    threshold: float | None = None
    reference: ReferenceOutputs | None = None
    features: FeatureReference | None = None
    rate: float = 0.0
    exclusive: bool = True
    notes: tuple[str, ...] = ()

    def novelty(self, logits: Tensor, features: Tensor | None) -> list[float] | None:
        """The novelty of each image, from 0 to 1; None where it wasn't asked for.

        Args:
            features: What the head of the network takes, where `features` are known, `(b, ...)`.
        """
        if self.reference is None:
            return None
        energy = energies(logits, self.exclusive).cpu().numpy()
        if self.features is None:
            ranks = novelties(energy, self.reference.energies, self.reference.images)
        else:
            assert features is not None, "the predictor computes them where they are known"
            sums = self.features.sums(energy, self.features.distances(flat_features(features).cpu()))
            ranks = novelties(sums, self.features.values.tolist(), int(self.features.images))
        found: list[float] = ranks.tolist()
        return found

    def sets(self, logits: Tensor) -> list[list[int]] | None:
        """The classes in the set of each image, the likeliest first; None without sets."""
        if self.limits is None:
            return None
        probabilities = logits.double().softmax(dim=1).cpu().numpy()
        members = set_members(probabilities, self.method, self.limits)
        orders = np.argsort(-probabilities, axis=1, kind="stable")
        return [order[row[order]].tolist() for order, row in zip(orders, members, strict=True)]


def uncertainty_rule(asked: Uncertainty, folder: Path, card: ModelCard, exclusive: bool) -> UncertaintyRule:
    """What a model does to give what is asked for.

    Args:
        folder, card: The model's.
        exclusive: Whether it predicts one class for each image.

    Raises:
        RequestError: A value is out of bounds or has no effect, or the model has no or too few calibration images.
    """
    asked.check()
    rule = _sets_and_rejection(asked, folder, card, exclusive)
    if asked.novelty is None:
        return rule
    if card.reference is None:
        cause = "an ensemble, whose outputs have no energy" if card.members else "a model without them"
        raise RequestError(
            f"novelty is relative to the outputs for validation images, and {folder} is {cause}",
            "use a member" if card.members else "train it again, with 50 validation images or more",
        )
    features = read_reference(current_folder(folder), card_digest(folder))
    count, measure = card.reference.images, "energy"
    if features is not None:
        count, measure = int(features.images), f"energy and distance to {len(features.features):,} training images"
    images = f"{count:,} {card.reference.source}"
    note = f"novelty ({measure}): an image is unlike the {images} if at most {asked.novelty:.3g} of them are as unlike"
    return replace(
        rule,
        reference=card.reference,
        features=features,
        rate=asked.novelty,
        exclusive=exclusive,
        notes=(*rule.notes, note),
    )


def _sets_and_rejection(asked: Uncertainty, folder: Path, card: ModelCard, exclusive: bool) -> UncertaintyRule:
    if not (asked.has_sets or asked.abstains):
        return UncertaintyRule()
    if not exclusive:
        raise RequestError(
            "prediction sets and rejection are for one class per image, and the model has several",
            "drop these options",
        )
    method: SetMethod = asked.sets or "lac"
    if method == "raps" and len(card.classes) <= FREE_RANKS:
        raise RequestError(f"raps is the same as aps with {FREE_RANKS} classes or fewer", "give --sets aps")
    if asked.coverage is None and asked.reject_risk is None:
        return UncertaintyRule(threshold=asked.min_confidence)
    scores = read_scores(current_folder(folder), card_digest(folder))
    limits, notes = _limits(asked, method, scores, card.classes)
    threshold = asked.min_confidence if asked.reject_risk is None else _threshold(asked.reject_risk, scores)
    if asked.reject_risk is not None:
        notes = (*notes, f"predictions below a probability of {threshold:.4f} are rejected")
    return UncertaintyRule(method, limits, threshold, notes=notes)


def _limits(
    asked: Uncertainty, method: SetMethod, scores: CalibrationScores, classes: tuple[str, ...]
) -> tuple[float | Array | None, tuple[str, ...]]:
    """The limits of sets, and notes on them."""
    if asked.coverage is None:
        return None, ()
    notes = [f"sets ({method}) with a coverage of {asked.coverage:g}, from {scores.describe}"]
    if not asked.by_class:
        return scores.limit(method, asked.coverage), tuple(notes)
    limits = scores.class_limits(method, asked.coverage, len(classes))
    always = [name for name, limit in zip(classes, limits.tolist(), strict=True) if not np.isfinite(limit)]
    if always:
        notes.append(f"{plural(len(always), 'class is', 'classes are')} in every set, of too few images: {always[0]}")
    return limits, tuple(notes)


def _threshold(risk: float, scores: CalibrationScores) -> float:
    rule = rejection_rule(scores.confidence, scores.right, risk)
    if rule is None:
        lowest = min(one.bound for one in rejection_rules(scores.confidence, scores.right))
        raise RequestError(
            f"reject-risk {risk:g}: {scores.describe} can't show an error rate that low; the lowest is {lowest:.3g}",
            "give a higher risk, or more images to ftkit calibrate",
        )
    return rule.threshold
