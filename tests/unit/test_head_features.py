"""The features that a head gets."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ftkit.training.preparation.probe import NoProbeError, _Features


def test_a_network_that_changes_its_heads_output_is_noticed() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.fc(x) * 2
            return out

    network = Scaled()
    with pytest.raises(NoProbeError, match="does more with its head's output"):
        _Features(network, network.fc)(torch.ones(3, 4))
