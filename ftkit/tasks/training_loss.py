"""The loss of a batch: the chosen loss with class weights, label smoothing and auxiliary classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ftkit.errors import RequestError
from ftkit.parts.loss import Loss
from ftkit.parts.task import class_counts
from ftkit.plugin_errors import plugin_boundary

if TYPE_CHECKING:
    from ftkit.planning.run_plan import Plan


@dataclass(frozen=True)
class BatchLoss:
    """The sum over a batch's images of their losses.

    Attributes:
        loss: The loss of each image.
        name: What messages call it.
        smoothing: The label-smoothing factor.
        weights: Weight of each class, float32 `(classes,)`; None where all are 1. It multiplies the whole loss of an
            image, the smoothed part too: torch's own `weight` weights that part by the classes it is spread over,
            which would favour frequent classes again. With soft targets it is the mean by class probability.
        auxiliary: Weight of the losses of auxiliary classifiers.
    """

    loss: Loss
    name: str = "loss"
    smoothing: float = 0.0
    weights: Tensor | None = None
    auxiliary: float = 0.0

    def __call__(self, logits: Tensor, targets: Tensor, others: Sequence[Tensor] = ()) -> Tensor:
        """A scalar.

        Args:
            logits: `(b, classes)`.
            targets: Class indices, int64 `(b,)`, or probabilities, float32 `(b, classes)`.
            others: Logits of auxiliary classifiers, each `(b, classes)`.

        Raises:
            RequestError: A plugin's loss returned something other than a loss for each image.
            PluginError: A plugin's loss failed.
        """
        with plugin_boundary(f"loss {self.name!r}"):
            total = self._sum(logits, targets)
            for other in others:
                total = total + self.auxiliary * self._sum(other, targets)
        return total

    def _sum(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.weights is None:
            found = self.loss.total(logits, targets, self.smoothing)
            self._require_shape(found, ())
            return found
        losses = self.loss.per_image(logits, targets, self.smoothing)
        self._require_shape(losses, logits.shape[:1])
        weights = targets @ self.weights if targets.is_floating_point() else self.weights[targets]
        return (losses * weights).sum()

    def _require_shape(self, found: Tensor, shape: Sequence[int]) -> None:
        if not isinstance(found, Tensor) or found.shape != tuple(shape):
            what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else repr(found)
            raise RequestError(
                f"loss {self.name!r} returned {what}, not a tensor of shape {tuple(shape)}",
                "return one loss per image from per_image",
            )


def make_loss(plan: Plan, device: torch.device) -> BatchLoss:
    """The loss of a plan."""
    config = plan.config
    assert plan.splits.train is not None, "make_plan refuses data without a training split"
    labels = plan.splits.train.labels
    weights = torch.tensor(plan.class_weights, device=device) if config.balance == "weights" else None
    with plugin_boundary(f"fitted of loss {config.loss.name!r}", plan.loss):
        loss = plan.loss.fitted(class_counts(labels, plan.num_classes), len(labels))
    return BatchLoss(loss, config.loss.name, config.label_smoothing, weights, plan.backbone.aux_weight)
