"""Decay of the weights toward those that the run started from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ftkit.api import Callback, RequestError, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from ftkit.training.run_context import RunContext


@hookimpl
def ftkit_callbacks() -> Mapping[str, type[Callback]]:
    return {"l2-sp": L2SP}


@dataclass
class L2SP(Callback):
    """Moves each weight toward its first value after each step, by its distance times learning rate and strength.

    L2-SP (Li et al., 2018) keeps a network near its pretrained weights. It is decoupled from the loss, as AdamW's
    decay is. The head, which has no pretrained weights for these classes, is left to the optimizer's own decay.

    Attributes:
        strength: Factor of the decay, above 0.
    """

    strength: float = 0.1

    order: ClassVar[int] = 240
    needs_whole_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.strength < float("inf"):
            raise RequestError(f"l2-sp: strength is {self.strength}", "give a number above 0, such as 0.1")
        self._weights: dict[str, tuple[list[Tensor], list[Tensor]]] = {}

    def check(self, plan: Mapping[str, Any]) -> None:
        if plan["weights"].startswith("none"):
            raise RequestError(
                "l2-sp decays toward the pretrained weights, and --weights none has none", "drop one of the two"
            )

    def describe(self) -> str:
        return f"l2-sp: weights below the head decay toward their first values, by {self.strength:g} times the rate"

    def on_phase_start(self, run: RunContext) -> None:
        """Take the first values of what trains from now on, by layer group."""
        import torch

        first, (*groups, _) = run.first_weights(), run.layer_groups
        trained = {name: parameter for name, parameter in run.network.named_parameters() if parameter.requires_grad}
        self._weights = {}
        for group in run.trainable.intersection(groups):
            names = [name for name in run.layer_groups[group] if name in trained]
            values = [trained[name].detach() for name in names]
            firsts = [torch.empty_like(value).copy_(first[name]) for name, value in zip(names, values, strict=True)]
            self._weights[group] = values, firsts

    def on_step_end(self, run: RunContext) -> None:
        import torch

        for group, rate in run.learning_rates.items():
            if group in self._weights:
                torch._foreach_lerp_(*self._weights[group], rate * self.strength)
