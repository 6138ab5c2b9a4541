"""The network that a phase calls, and the batches that it is called with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Feed:
    """What is trained and evaluated, and on which batches.

    Attributes:
        model: The network, or what of it comes after the cached activations; takes batches of `train_loader`.
        eval_model: The same in evaluation, for `val_loader`.
    """

    model: nn.Module
    train_loader: Any
    eval_model: nn.Module
    val_loader: Any
