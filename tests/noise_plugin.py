"""A plugin with a callback that changes the weights by what all earlier steps have left it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ftkit.api import Callback, hookimpl


@dataclass
class Noise(Callback):
    """Adds noise to the weights that train.

    Attributes:
        scale: Its standard deviation.
        stop_after: Ends the run after so many epochs.
        fail_at: Raises at this step.
        forgets: Saves no state.
        swing: Amplitude by which the head's bias of the first class alternates around its trained value.
    """

    scale: float = 1e-3
    stop_after: int = -1
    fail_at: int = 0
    forgets: bool = False
    swing: float = 0

    def __post_init__(self) -> None:
        self._steps = 0
        self._drift = torch.zeros(3)

    def on_step_end(self, run: Any) -> None:
        self._steps += 1
        if self._steps == self.fail_at:
            raise ZeroDivisionError("as it was asked to")
        generator = torch.Generator().manual_seed(self._steps)
        with torch.no_grad():
            for parameter in run.network.parameters():
                if parameter.requires_grad:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(self.scale * (noise + self._drift.mean()))
            bias = list(run.network.parameters())[-1]
            bias[0] += self.swing * (-1) ** self._steps * (1 if self._steps == 1 else 2)
        self._drift = self._drift.mul(0.9).add(torch.randn(3, generator=generator))

    def on_epoch_end(self, run: Any, record: Mapping[str, Any]) -> Mapping[str, float]:
        if run.epoch == self.stop_after:
            run.stop()
        return {"noise_steps": self._steps}

    def state_dict(self) -> Mapping[str, Any]:
        return {} if self.forgets else {"steps": self._steps, "drift": {"values": [self._drift]}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps, self._drift = state["steps"], state["drift"]["values"][0]


@hookimpl
def ftkit_callbacks() -> Mapping[str, type[Callback]]:
    return {"noise": Noise}
