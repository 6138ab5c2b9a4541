"""What training minimises: cross entropy, smoothed and weighted as the plan says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from ftkit.planning.run_plan import Plan


@dataclass(frozen=True)
class Loss:
    """The sum over a batch's images of their losses.

    Attributes:
        smoothing: Part of each target that is spread evenly over all classes.
        weights: What an image of each class counts, float32 `(classes,)`; None where all count 1. The whole
            loss of an image is weighted, its smoothed part too. torch's own `weight` weights that part by
            the classes it is spread over, so that frequent classes would outweigh rare ones in it after all.
        auxiliary: What the loss of an auxiliary classifier counts beside the main one.
    """

    smoothing: float = 0.0
    weights: Tensor | None = None
    auxiliary: float = 0.0

    def __call__(self, logits: Tensor, labels: Tensor, others: Sequence[Tensor] = ()) -> Tensor:
        """A scalar.

        Args:
            logits: `(b, classes)`.
            labels: int64 `(b,)`.
            others: Logits of auxiliary classifiers.
        """
        total = self._summed(logits, labels)
        for other in others:
            total = total + self.auxiliary * self._summed(other, labels)
        return total

    def _summed(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.weights is None:
            return cross_entropy(logits, labels, reduction="sum", label_smoothing=self.smoothing)
        losses = cross_entropy(logits, labels, reduction="none", label_smoothing=self.smoothing)
        return (losses * self.weights[labels]).sum()


def make_loss(plan: Plan, device: torch.device) -> Loss:
    """The loss of a plan."""
    weights = torch.tensor(plan.class_weights, device=device) if plan.config.balance == "weights" else None
    return Loss(plan.config.label_smoothing, weights, plan.backbone.aux_weight)
