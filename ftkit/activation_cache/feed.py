"""The network that a phase calls, and the batches that it is called with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Feed:
    """What is trained and evaluated, and on what.

    Attributes:
        trained: The network, or what of it comes after the cached activations; takes batches of `train_loader`.
        eval_network: The same in evaluation, for `val_loader`.
    """

    trained: nn.Module
    train_loader: Any
    eval_network: nn.Module
    val_loader: Any
