"""What processes ask each other, at the same point of their ways."""

from __future__ import annotations

import torch
from accelerate import Accelerator


def max_over_processes(accelerator: Accelerator, value: int) -> int:
    """The largest of the values that the processes have; each must ask at the same point of its way."""
    if accelerator.num_processes == 1:
        return value
    values = accelerator.gather(torch.tensor([value], device=accelerator.device))
    return int(values.max())
