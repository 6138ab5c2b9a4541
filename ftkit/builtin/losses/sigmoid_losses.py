"""Losses for several classes per image: a sigmoid for each class. The loss of an image is the mean over its classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from ftkit.api import Loss, check_number, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def ftkit_losses() -> Mapping[str, type[Loss]]:
    return {"binary-cross-entropy": BinaryCrossEntropy, "asymmetric": Asymmetric, "sigmoid-focal": SigmoidFocal}


class PerClass(Loss):
    """A loss of each class of an image. Label smoothing moves targets of 0 and 1 towards 1/2."""

    tasks: ClassVar[tuple[str, ...]] = ("multilabel",)

    def per_image(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return self.per_class(logits, targets * (1 - smoothing) + smoothing / 2).mean(1)

    @abstractmethod
    def per_class(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of each class of each image, `(b, classes)`, like both arguments."""


@dataclass(frozen=True)
class BinaryCrossEntropy(PerClass):
    """Binary cross-entropy, as `torch.nn.functional.binary_cross_entropy_with_logits`.

    Attributes:
        pos_weight: Weight of the positive targets of every class, or of each class in a list. balanced: the number of
            training images without a class over the number of images with it. none: 1.
    """

    pos_weight: Literal["none", "balanced"] | float | tuple[float, ...] = "none"

    def __post_init__(self) -> None:
        if not isinstance(self.pos_weight, str):
            for weight in self.pos_weight if isinstance(self.pos_weight, tuple) else (self.pos_weight,):
                check_number("pos_weight", weight, 0, above=True)

    def fitted(self, images: Sequence[int], total: int) -> Loss:
        """With the balanced weights; a class without a training image keeps 1."""
        if self.pos_weight != "balanced":
            return self
        return replace(self, pos_weight=tuple((total - n) / n if 0 < n < total else 1.0 for n in images))

    def per_class(self, logits: Tensor, targets: Tensor) -> Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        weight = None if isinstance(self.pos_weight, str) else logits.new_tensor(self.pos_weight)
        return binary_cross_entropy_with_logits(logits, targets, reduction="none", pos_weight=weight)


@dataclass(frozen=True)
class SigmoidFocal(PerClass):
    """Focal loss (Lin et al., 2017) of each class, as `torchvision.ops.sigmoid_focal_loss`.

    Attributes:
        gamma: Exponent of the weight of badly classified targets, 0 or more.
        alpha: Weight of positive targets, 0 to 1, and 1 less it of negative ones; null for no weights.
    """

    gamma: float = 2.0
    alpha: float | None = 0.25

    def __post_init__(self) -> None:
        check_number("gamma", self.gamma, 0)
        if self.alpha is not None:
            check_number("alpha", self.alpha, 0, 1)

    def per_class(self, logits: Tensor, targets: Tensor) -> Tensor:
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits

        losses = binary_cross_entropy_with_logits(logits, targets, reduction="none")
        p = logits.sigmoid()
        wrong = p + targets - 2 * p * targets
        # At a wrong probability of 0 an exponent below 1 has an infinite slope.
        losses = losses * wrong.clamp(min=torch.finfo(wrong.dtype).eps) ** self.gamma
        return losses if self.alpha is None else losses * (1 - self.alpha + targets * (2 * self.alpha - 1))


@dataclass(frozen=True)
class Asymmetric(PerClass):
    """Asymmetric loss (Ridnik et al., 2021): focal loss with an exponent of its own for negative targets.

    Attributes:
        gamma_neg: Exponent for negative targets, 0 or more.
        gamma_pos: Exponent for positive targets, 0 or more.
        clip: Probability by which those of negative targets are lowered, 0 or more and less than 1; negatives below it
            have no loss.
    """

    gamma_neg: float = 4.0
    gamma_pos: float = 1.0
    clip: float = 0.05

    def __post_init__(self) -> None:
        check_number("gamma_neg", self.gamma_neg, 0)
        check_number("gamma_pos", self.gamma_pos, 0)
        check_number("clip", self.clip, 0, 1, below=True)

    def per_class(self, logits: Tensor, targets: Tensor) -> Tensor:
        p = logits.sigmoid()
        absent = (1 - p + self.clip).clamp(max=1)
        losses = targets * p.clamp(min=1e-8).log() + (1 - targets) * absent.clamp(min=1e-8).log()
        # No gradient flows through the weights, as in the authors' own code.
        wrong = (1 - p * targets - absent * (1 - targets)).detach().clamp(min=0)
        return -losses * wrong ** (self.gamma_pos * targets + self.gamma_neg * (1 - targets))
