"""The final model of a cross-fitted run, made of the networks of its folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from ftkit.cross_fitting.fold_networks import FoldNetwork
from ftkit.cross_fitting.fold_runs import Fold
from ftkit.evaluation.out_of_fold import OutOfFold
from ftkit.models.bundle import Loaded
from ftkit.models.weights.interpolation import average
from ftkit.models.weights.pretrained import restore_weights
from ftkit.planning.run_plan import Plan
from ftkit.runs.model_card import ModelCard
from ftkit.training.run_calibration import calibrated_card
from ftkit.uncertainty.calibration_fit import calibration_sample

SOURCE = "out-of-fold outputs of the training images"
AVERAGE = "average of the folds' weights"


@dataclass(frozen=True)
class FinalModel:
    """A network ready to be written as a model.

    Attributes:
        loaded: The network, and the card of a fold's model.
        description: How it was made.
        epochs: Epochs that its weights were trained for.
    """

    loaded: Loaded
    description: str
    epochs: int


def combine(folds: Sequence[Fold], share: float) -> FinalModel:
    """The final model, from the folds' networks at a share of the way from the first to the last weights.

    These share their start, so the mean of their weights is a good model too. At the start they differ in the head
    alone. There the mean of the heads was as accurate as one head solved on all images, and had a much lower loss.
    """
    first = FoldNetwork(folds[0])
    others = (FoldNetwork(fold) for fold in folds[1:])  # One at a time, since a network may be large.
    weights = average(network.at(share) for network in chain([first], others))
    restore_weights(first.loaded.model, weights)
    epochs = max(int(fold.run.records()[-1]["epoch"]) for fold in folds) if share else 0
    return FinalModel(first.loaded, AVERAGE, epochs)


def final_card(plan: Plan, final: FinalModel, found: OutOfFold, metrics: Mapping[str, float | None]) -> ModelCard:
    """The card of the final model; its decision and its calibration are fitted on the out-of-fold outputs.

    Args:
        metrics: The out-of-fold metrics.
    """
    card = replace(
        final.loaded.card,
        metrics={f"val_{name}": value for name, value in metrics.items()},
        epoch=final.epochs,
        fingerprint=plan.fingerprint,
        decision=plan.task.fit_decision(found.logits, found.targets),
        versions={},
        created="",
        ftkit="",
    )
    return calibrated_card(plan, card, calibration_sample(found.logits, found.targets), SOURCE)
