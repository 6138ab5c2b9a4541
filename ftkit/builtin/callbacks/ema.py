"""An exponential moving average of the weights."""

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
    return {"ema": EMA}


@dataclass
class EMA(Callback):
    """Averages the weights over the optimizer steps, and evaluates the average after each epoch.

    What trains is averaged: parameters, and buffers such as BatchNorm's statistics. The average is written as the model
    where it is better than the trained weights. In the first steps it follows them faster: the decay of step n is at
    most (1 + n) / (10 + n).

    Attributes:
        decay: Weight of the old average in each step, between 0 and 1.
    """

    decay: float = 0.999

    order: ClassVar[int] = 260
    needs_whole_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1:
            raise RequestError(f"ema: decay is {self.decay}", "give a number between 0 and 1, such as 0.999")
        self._steps = 0
        self._average: dict[str, Tensor] = {}
        self._trained: list[Tensor] = []

    def describe(self) -> str:
        return (
            f"ema: the average of the weights, with decay {self.decay:g}, is evaluated after each epoch as val_ema_*, "
            "and is the model where it is better"
        )

    def on_phase_start(self, run: RunContext) -> None:
        """Average what trains from now on; what is frozen now has its own values."""
        import torch

        trained = {
            name: parameter.detach() for name, parameter in run.network.named_parameters() if parameter.requires_grad
        }
        for path, module in run.network.named_modules():
            if module.training:
                buffers = module.named_buffers(path, recurse=False)
                trained |= {name: buffer for name, buffer in buffers if buffer.is_floating_point()}
        self._average = {
            name: torch.empty_like(tensor).copy_(self._average.get(name, tensor)) for name, tensor in trained.items()
        }
        self._trained = list(trained.values())

    def on_step_end(self, run: RunContext) -> None:
        import torch

        self._steps += 1
        decay = min(self.decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(list(self._average.values()), self._trained, 1 - decay)

    def weights_to_evaluate(self, run: RunContext) -> Mapping[str, Tensor]:
        return self._average

    def state_dict(self) -> Mapping[str, Any]:
        return {"steps": self._steps, "average": self._average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps, self._average = int(state["steps"]), dict(state["average"])
