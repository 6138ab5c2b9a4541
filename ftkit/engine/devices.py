"""The accelerator that was asked for, or a refusal; never another one in silence."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from ftkit.config.schema import Config
from ftkit.engine.processes import require_backend
from ftkit.errors import RequestError, unknown

MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def make_accelerator(config: Config) -> Accelerator:
    """An accelerator of the config's device and precision.

    Raises:
        RequestError: This machine hasn't got the device, or the device can't do the precision.
    """
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    # accelerate keeps one state a process, which would refuse a second run in another precision.
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=MIXED[precision])
    if accelerator.device.type != device or accelerator.mixed_precision != MIXED[precision]:
        raise RequestError(
            f"asked for {device} in {precision}, got {accelerator.device.type} in {accelerator.mixed_precision}",
            "unset the ACCELERATE_ variables of the environment",
        )
    require_backend(device, accelerator.num_processes)
    return accelerator


def choose_device(wanted: str) -> str:
    """`cuda`, `mps` or `cpu`: the one asked for, or with `auto` the first of these that is there."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(name for name, there in present.items() if there)
    if wanted not in present:
        raise unknown("device", wanted, ["auto", *present])
    if not present[wanted]:
        raise RequestError(f"device {wanted!r} isn't there on this machine", "give --device cpu or --device auto")
    return wanted


def choose_precision(wanted: str, device: str) -> str:
    """`auto` is bf16 on GPUs that have it in hardware, else fp32. fp16 on CPU is refused."""
    if wanted == "auto":
        return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if wanted == "fp16" and device == "cpu":
        raise RequestError("precision fp16 doesn't work on the CPU", "give --precision bf16 or fp32")
    return wanted
