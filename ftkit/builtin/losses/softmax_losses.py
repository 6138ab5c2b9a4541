"""Losses for one class per image: the softmax of the logits against class indices or class probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftkit.api import Loss, check_number, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def ftkit_losses() -> Mapping[str, type[Loss]]:
    return {"cross-entropy": CrossEntropy, "focal": Focal}


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross-entropy, as `torch.nn.functional.cross_entropy`."""

    def per_image(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)

    def total(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)


@dataclass(frozen=True)
class Focal(Loss):
    """Focal loss (Lin et al., 2017): cross-entropy with less weight on images that are classified well.

    The cross-entropy term of each class is multiplied by (1 - p) ** gamma, where p is its predicted probability.

    Attributes:
        gamma: The exponent, 0 or more; 0 is cross-entropy.
    """

    gamma: float = 2.0

    def __post_init__(self) -> None:
        check_number("gamma", self.gamma, 0)

    def per_image(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        import torch
        from torch.nn.functional import one_hot

        classes = logits.shape[1]
        wanted = targets if targets.is_floating_point() else one_hot(targets, classes)
        wanted = wanted * (1 - smoothing) + smoothing / classes
        logs = logits.log_softmax(1)
        # At a probability of 1 an exponent below 1 has an infinite slope.
        missing = (1 - logs.exp()).clamp(min=torch.finfo(logs.dtype).eps)
        return -(wanted * missing**self.gamma * logs).sum(1)
