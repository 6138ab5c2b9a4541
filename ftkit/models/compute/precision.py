"""The numeric precision of a network's passes: the requested one, or what is fastest on the processor.

`auto` follows measurements, not a timing at the start, which another program could disturb: two runs of a network on
one machine compute alike.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ftkit.errors import RequestError

FEWEST = 100_000
"""Parameters from which a CPU computes a network faster in bf16. (LeNet has 62 thousand and is no faster; ResNet-20,
with 270 thousand, trains 1.5 times as fast with AVX-512 BF16.)"""
BF16_INSTRUCTIONS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16"}
"""Instructions with which x86 processors multiply in bf16, as torch names them, and their names; the second is fast on
AMD's alone. On other CPUs bf16 is emulated, or slower in the libraries that torch uses there."""


@dataclass(frozen=True)
class Precision:
    """The precision of a network's passes; each is `fp32`, `bf16` or `fp16`.

    Attributes:
        training: Of training steps, with the frozen layers before those that train, cached or not.
        evaluation: Of validation, `evaluate`, `compare` and `predict`.
        reason: Why it was chosen; empty where it was requested.
    """

    training: str
    evaluation: str
    reason: str = ""


@dataclass(frozen=True)
class NetworkTraits:
    """What the speed of a network in bf16 depends on.

    Attributes:
        trains_depthwise: Whether gradients of depthwise convolutions are computed in a network with BatchNorm.
    """

    parameters: int
    trains_depthwise: bool = False


def traits_of(network: nn.Module, trained: Collection[str] = ()) -> NetworkTraits:
    """The traits of a network, which may be on the meta device.

    Args:
        trained: Names of the parameters from the first one that trains on: gradients pass through them.
    """
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return NetworkTraits(parameters, bool(trained) and _trains_depthwise(network, set(trained)))


def _trains_depthwise(network: nn.Module, trained: Collection[str]) -> bool:
    """Whether depthwise convolutions are among `trained`, in a network with BatchNorm, such as an EfficientNet.

    A CPU computes their gradients more slowly in bf16 than in fp32: a training step of MobileNetV3 small takes 1.7
    times as long with AMX, one of EfficientNet-Lite0 1.25 times with AVX-512 BF16.
    """
    depthwise = any(
        isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1 and f"{name}.weight" in trained
        for name, module in network.named_modules()
    )
    return depthwise and any(isinstance(module, _BatchNorm) for module in network.modules())


def requested_precision(wanted: str, device: str) -> str | None:
    """The requested precision; None for `auto`.

    Raises:
        RequestError: fp16 on the CPU.
    """
    if wanted == "fp16" and device == "cpu":
        raise RequestError("precision fp16 doesn't work on the CPU", "give --precision bf16 or fp32")
    return None if wanted == "auto" else wanted


def choose_precision(wanted: str, device: str, traits: Callable[[], NetworkTraits]) -> Precision:
    """The requested precision; with `auto` the fastest for each kind of pass.

    Args:
        device: `cuda`, `mps` or `cpu`.
        traits: Called only where the choice depends on the network.

    Raises:
        RequestError: As `requested_precision`.
    """
    requested = requested_precision(wanted, device)
    if requested is not None:
        return Precision(requested, requested)
    hardware = bf16_hardware(device)
    if not hardware:
        return Precision("fp32", "fp32", f"this {device.upper()} isn't faster in bf16")
    if device != "cpu":
        return Precision("bf16", "bf16", hardware)
    network = traits()
    if network.parameters < FEWEST:
        return Precision("fp32", "fp32", "so small a network isn't faster in bf16")
    if network.trains_depthwise:
        return Precision("fp32", "bf16", "depthwise convolutions train faster in fp32")
    return Precision("bf16", "bf16", hardware)


def bf16_hardware(device: str) -> str:
    """What makes bf16 fast on a device; empty where nothing does."""
    if device == "cuda":
        return "tensor cores" if torch.cuda.is_bf16_supported(including_emulation=False) else ""
    found = torch.cpu.get_capabilities() if device == "cpu" else {}
    # Without AMX, Intel's processors are slower with it: ResNet-18 has 0.65 times the speed of fp32, on an AMD EPYC 1.8
    # times. Virtual machines may hide AMX.
    slow = {"avx512_bf16"} if "Intel" in str(found.get("cpu_name", "")) else set()
    return next((name for flag, name in BF16_INSTRUCTIONS.items() if found.get(flag) and flag not in slow), "")


def evaluation_precision(wanted: str, stated: str, device: str, traits: Callable[[], NetworkTraits]) -> tuple[str, str]:
    """The precision of a trained model's passes, and a warning if it isn't the one that the model states.

    Args:
        stated: That of the model's validation; `auto` for a model without one.

    Raises:
        RequestError: As `requested_precision`.
    """
    requested = requested_precision(wanted, device)
    if requested is not None:
        return requested, ""
    if stated == "auto":
        return choose_precision("auto", device, traits).evaluation, ""
    fast = stated == "fp32" or (device != "cpu" if stated == "fp16" else bool(bf16_hardware(device)))
    if fast:
        return stated, ""
    slow = "doesn't compute in fp16" if stated == "fp16" else "isn't fast in bf16"
    return "fp32", f"validated in {stated}, computed in fp32 here, since this {device.upper()} {slow}"
