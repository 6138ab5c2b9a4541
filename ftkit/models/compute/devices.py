"""Device and precision of a network: those that were requested, or an error, never others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from ftkit.config.schema import Config
from ftkit.distributed import launch_env
from ftkit.distributed.processes import check_backend, check_devices, make_reproducible
from ftkit.errors import RequestError, unknown
from ftkit.models.compute.precision import requested_precision

MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FEW, AREA = 8, 224 * 224
"""Images of that area per batch for inference on a CPU: activations of more images don't fit into its caches.
(ResNet-18 in bf16: batches of 64 take a third longer.)"""
MANY = 1 << 20
"""For a GPU only the memory limits the batch."""


@dataclass(frozen=True)
class Compute:
    """Device, precision and memory layout of a network.

    Attributes:
        precision: `fp32`, `bf16` or `fp16`.
        layout: The memory format of images; `models.compute.memory_format` chooses it.
    """

    device: torch.device
    precision: str
    layout: torch.memory_format = torch.contiguous_format

    @property
    def fuses(self) -> bool:
        """Whether fused optimizers are available: torch has them for the device, and no gradients are scaled."""
        return self.device.type in ("cpu", "cuda") and self.precision != "fp16"

    def autocast(self) -> torch.autocast:
        """The context in which a network computes."""
        return torch.autocast(self.device.type, DTYPES[self.precision], enabled=self.precision != "fp32")

    def to_device(self, values: Tensor) -> Tensor:
        """Images or activations on the device, in the memory layout if they are `(b, channels, height, width)`."""
        if values.ndim != 4:
            return values.to(self.device, non_blocking=True)
        return values.to(self.device, non_blocking=True, memory_format=self.layout)

    def inference_batches(self, values: Tensor) -> Sequence[Tensor]:
        """The same in batches of the size that is fastest for inference."""
        taken = self.to_device(values)
        return torch.split(taken, self.inference_batch_size(taken.shape[-1])) if taken.ndim == 4 else (taken,)

    def inference_batch_size(self, size: int) -> int:
        """The batch size that is fastest for inference, for images of `size` x `size` pixels."""
        return max(FEW, FEW * AREA // size**2) if self.device.type == "cpu" else MANY


def compute_of(accelerator: Accelerator) -> Compute:
    """Device and precision of an accelerator."""
    precision = next(name for name, mixed in MIXED.items() if mixed == accelerator.mixed_precision)
    return Compute(accelerator.device, precision)


def make_accelerator(config: Config, precision: str) -> Accelerator:
    """An accelerator for the config's device.

    Args:
        precision: `fp32`, `bf16` or `fp16`.

    Raises:
        RequestError: The machine doesn't have the device, or accelerate is told to use another device or precision.
    """
    device = choose_device(config.device)
    check_devices(device)
    make_reproducible(device)
    if config.zero_stage:
        # accelerate imports DeepSpeed if it is installed, which would otherwise guess the device and print that.
        os.environ.setdefault("DS_ACCELERATOR", device)
    # accelerate keeps one state per process, which refuses a second run in another precision.
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=MIXED[precision])
    if accelerator.device.type != device or accelerator.mixed_precision != MIXED[precision]:
        raise RequestError(
            f"requested {device} in {precision}, got {accelerator.device.type} in {accelerator.mixed_precision}",
            "unset the ACCELERATE_ variables of the environment",
        )
    check_backend(device, accelerator.num_processes)
    return accelerator


def join_processes(config: Config) -> None:
    """Initialise communication with the other processes, on the config's device, if it isn't yet.

    Raises:
        RequestError: The device, precision, number of processes or backend isn't the requested one.
    """
    if launch_env.world() > 1 and not torch.distributed.is_initialized():
        make_accelerator(config, requested_precision(config.precision, choose_device(config.device)) or "fp32")


def choose_device(wanted: str) -> str:
    """`cuda`, `mps` or `cpu`: the requested one, or with `auto` the first that is available."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(name for name, there in present.items() if there)
    if wanted not in present:
        raise unknown("device", wanted, ["auto", *present])
    if not present[wanted]:
        raise RequestError(f"device {wanted!r} isn't available on this machine", "give --device cpu or --device auto")
    return wanted
