"""Sums over the training images of the epoch under way."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

from ftkit.runs.checkpoint_files import Progress


class EpochTotals:
    """Loss, correct predictions and images of this process, summed on the device, so that counting needn't wait for it.

    Attributes:
        values: Sum of losses, number correct and number seen; float64 `(3,)`.
    """

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, loss: Tensor, correct: Tensor, images: int) -> None:
        # `full_like` is a kernel; a tensor made of a number would be copied to the device, which waits for it.
        seen = torch.full_like(loss, images, dtype=torch.float64)
        self.values += torch.stack([loss.double(), correct.double(), seen])

    def reset(self) -> None:
        self.values.zero_()

    def own(self) -> tuple[float, int, int]:
        """The sums of this process; waits for the device."""
        loss, correct, seen = self.values.tolist()
        return loss, int(correct), int(seen)

    def over_processes(self, accelerator: Accelerator) -> tuple[float, int, int]:
        """The sums over all processes; each must call this."""
        loss, correct, seen = accelerator.reduce(self.values, "sum").tolist()
        return loss, int(correct), int(seen)

    def load(self, progress: Progress) -> None:
        """Restore the sums over all processes; for the main process alone, since they are summed again."""
        self.values.copy_(torch.tensor([progress.loss_sum, progress.correct, progress.seen], dtype=torch.float64))
