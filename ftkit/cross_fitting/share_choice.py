"""The out-of-fold outputs at several shares of the way from the first to the last weights, and the best share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ftkit.cross_fitting.fold_networks import share_outputs
from ftkit.cross_fitting.fold_runs import Fold
from ftkit.evaluation.out_of_fold import OutOfFold
from ftkit.metrics.outputs import Outputs
from ftkit.metrics.report import evaluate_outputs
from ftkit.metrics.selection import is_better_or_equal_with_lower_loss
from ftkit.parts.dataset import Split
from ftkit.planning.run_plan import Plan


@dataclass(frozen=True)
class Candidate:
    """The outputs of all folds at one share, together.

    Attributes:
        metrics: By name; None for one that has no value.
        loss: The mean loss over all images.
    """

    share: float
    found: OutOfFold
    metrics: Mapping[str, float | None]
    loss: float


def evaluate_shares(plan: Plan, folds: Sequence[Fold], check: Callable[[str], None]) -> list[Candidate]:
    """The out-of-fold outputs at each share; one share alone where no epoch was trained.

    Args:
        plan: Of the cross-fitted run.
        folds: Trained ones; all of them, or those whose images are to be evaluated.
        check: See `share_outputs`.
    """
    images = plan.splits.train
    assert images is not None, "make_plan refuses data without a training split"
    outputs = [share_outputs(fold, check) for fold in folds]
    return [_candidate(plan, images, folds, share, [one[share] for one in outputs]) for share in outputs[0]]


def choose(plan: Plan, candidates: Sequence[Candidate]) -> Candidate:
    """The best one by the monitored metric; of equals, the one with the lower loss, then with the smaller share."""
    monitor = plan.config.monitor
    lower, best = plan.metrics[monitor].lower_is_better, candidates[0]
    for one in candidates[1:]:
        found, known = ((each.metrics[monitor], each.loss) for each in (one, best))
        if is_better_or_equal_with_lower_loss(found, known, lower):
            best = one
    return best


def _candidate(plan: Plan, images: Split, folds: Sequence[Fold], share: float, logits: Sequence[Tensor]) -> Candidate:
    """The outputs of the folds in the order of the training images."""
    places = {name: place for place, name in enumerate(images.names)}
    rows = [(places[name], fold.number) for fold in folds for name in fold.images.names]
    order = torch.tensor([place for place, _ in rows]).argsort()
    evaluated = images.subset([place for place, _ in sorted(rows)])
    numbers = tuple(number for _, number in sorted(rows))
    targets = plan.task.targets(evaluated.labels, plan.num_classes)
    found = OutOfFold(tuple(evaluated.names), numbers, targets, torch.cat(list(logits))[order])
    outputs: Outputs = plan.task.outputs(found.logits, found.targets, plan.splits.classes)
    metrics = evaluate_outputs(outputs, plan.metrics).values
    return Candidate(share, found, metrics, float(outputs.losses.mean()))
