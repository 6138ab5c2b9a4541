"""The networks of an ensemble as one network, for images that all members take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ftkit.parts.task import Task


class Reordered(nn.Module):
    """A network whose outputs are in another order of the classes.

    Args:
        places: Output `i` is the one that was at `places[i]`.
    """

    places: Tensor

    def __init__(self, network: nn.Module, places: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("places", torch.tensor(places), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits.index_select(1, self.places)


class EnsembleNetwork(nn.Module):
    """Logits for the weighted mean of the members' probabilities, float32 `(b, classes)`.

    Args:
        weights: Of the members, with the sum 1.
    """

    weights: Tensor

    def __init__(self, members: Sequence[nn.Module], weights: Sequence[float], task: Task) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("weights", torch.tensor(weights), persistent=False)
        self.task = task

    def forward(self, images: Tensor) -> Tensor:
        return self.task.averaged(torch.stack([member(images).float() for member in self.members]), self.weights)
