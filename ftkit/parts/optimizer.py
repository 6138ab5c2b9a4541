"""An optimizer: what updates the parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch

UNSUPPORTED: Mapping[str, str] = {
    "lbfgs": "it computes the loss several times in a step",
    "muon": "it trains matrices only",
    "sparseadam": "it takes sparse gradients only",
}
"""Optimizers of `torch.optim` that can't train every layer of a network in one plain step, with the reason."""


class Optimizer(ABC):
    """Builds an optimizer of torch. Subclasses are frozen dataclasses; fields are options of `optimizer` beside `lr`.

    An option called `weight_decay` is the coefficient of weight decay, which spares biases and normalisation
    parameters unless `decay_all` is set.

    Attributes:
        uses_curve: Whether each step uses the learning rate of that step; otherwise only the first one does.
        adam_like: Whether the length of a step is about the learning rate, as with Adam: recommended learning rates
            are for such optimizers.
        elementwise: Whether a weight's update depends on its own gradient and state only, so that ZeRO can give each
            process a part of a tensor.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    uses_curve: ClassVar[bool] = True
    adam_like: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False

    @property
    def decay(self) -> float:
        """The coefficient of weight decay; 0 where there is none."""
        return float(getattr(self, "weight_decay", 0.0))

    @property
    def state_values(self) -> int:
        """Values that it keeps for each trainable parameter, for estimates of memory; 2 unless overridden."""
        return 2

    def lr_note(self, highest: float, steps: int) -> str:
        """One line for the plan where the learning rates in use differ from the planned ones; by default empty.

        Args:
            highest: The highest learning rate of the run.
            steps: Optimizer steps of the run.
        """
        return ""

    @abstractmethod
    def build(self, groups: Sequence[dict[str, Any]], lr: float, fused: bool = False) -> torch.optim.Optimizer:
        """The optimizer over parameter groups, as `torch.optim` takes them.

        A group may set `weight_decay` itself; other keys, such as `name`, must be kept. `state_dict()["state"]` must
        map a parameter's index to tensors and numbers, so that a run resumes exactly.

        Args:
            lr: The base learning rate; each step sets the rate of each group anew.
            fused: Use the fused implementation, where there is one and the options don't say otherwise.
        """
