"""An optimizer: what updates the parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch


class Optimizer(ABC):
    """Makes an optimizer of torch. Subclasses are frozen dataclasses; fields are options beside the learning rate.

    Attributes:
        uses_curve: Whether it applies the learning rate of each step, so that a learning-rate curve has an effect.
        weight_decay: The coefficient in use; 0 for an optimizer without weight decay.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    uses_curve: ClassVar[bool] = True

    @abstractmethod
    def build(self, groups: Sequence[dict[str, Any]], lr: float, fused: bool = False) -> torch.optim.Optimizer:
        """The optimizer over parameter groups, as `torch.optim` takes them.

        Its state must be tensors and numbers by parameter, in `state_dict()`, so that a run resumes exactly.

        Args:
            lr: The base learning rate; each step sets the rate of each group anew.
            fused: Use the fused implementation, where there is one.
        """
