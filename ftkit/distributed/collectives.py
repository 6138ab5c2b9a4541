"""Collectives of the processes of a run; all must call them at the same point."""

from __future__ import annotations

import torch
from accelerate import Accelerator


def max_over_processes(accelerator: Accelerator, value: int) -> int:
    """The largest of the processes' values."""
    if accelerator.num_processes == 1:
        return value
    values = accelerator.gather(torch.tensor([value], device=accelerator.device))
    return int(values.max())
