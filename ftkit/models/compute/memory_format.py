"""Memory layout and type of weights and images: channels last, and 16 bits for inference, where that is faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ftkit.models.compute.devices import DTYPES, Compute

FEWEST = 4
"""Input channels from which torch computes strided 1x1 convolutions correctly on channels-last memory."""


def choose_memory_format(network: nn.Module, compute: Compute, channels: int, size: int) -> Compute:
    """Move a network to its device, in the fastest memory layout; no value changes.

    Channels last is faster for convolutions on CPUs, and on GPUs in 16 bits. A network whose code requires the other
    layout, such as `x.view(len(x), -1)`, fails on two trial images and keeps that layout.

    Args:
        size: Side of the images, in pixels.

    Returns:
        The same device and precision, with the layout for images.
    """
    device = compute.device
    quicker = device.type == "cpu" or (device.type == "cuda" and compute.precision != "fp32")
    if not quicker or (device.type == "cpu" and _crashes_on_channels_last(network)):
        network.to(device)
        return compute
    last = replace(compute, layout=torch.channels_last)
    _arrange(network, last)
    images = last.to_device(torch.zeros(2, channels, size, size))
    try:
        with preserve_state(network), torch.no_grad(), last.autocast():
            network(images)
    except Exception:
        # Any other fault is reported when the network is used.
        _arrange(network, compute)
        return compute
    return last


def _crashes_on_channels_last(network: nn.Module) -> bool:
    """Whether torch's backward pass on the CPU (2.15) would write out of bounds, which kills the process.

    It does for strided 1x1 convolutions with fewer than four input channels, such as the first of RepVGG and FastViT.
    """
    return any(
        isinstance(module, nn.Conv2d)
        and module.in_channels < FEWEST
        and set(module.kernel_size) == {1}
        and set(module.stride) != {1}
        for module in network.modules()
    )


def cast_for_inference(network: nn.Module, compute: Compute, channels: int, size: int) -> nn.Module:
    """A copy of a network for inference whose weights are cast once, instead of by autocast at each call.

    Weights of convolutions and linear layers are cast; all else is shared. A network whose outputs on two trial images
    differ in any bit is returned unchanged, as any network is in fp32.

    Args:
        network: The network in eval mode, on its device; returns one or several tensors.
        size: Side of the images, in pixels.
    """
    if compute.precision == "fp32":
        return network
    images = compute.to_device(torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0)))
    try:
        quick = _cast_weights(network, DTYPES[compute.precision])
        with preserve_state(network), torch.no_grad(), compute.autocast():
            ones, others = (
                tuple(out) if isinstance(out, tuple) else (out,) for out in (network(images), quick(images))
            )
    except Exception:
        # The network's own code may fail on cast weights, or on being copied.
        return network
    return quick if all(map(torch.equal, ones, others)) else network


def _cast_weights(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    known: dict[int, Any] = {}
    for module in network.modules():
        multiplies = isinstance(module, nn.Linear | _ConvNd)
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            known[id(tensor)] = nn.Parameter(tensor.detach().to(dtype), False) if multiplies else tensor
    return deepcopy(network, known)


def _arrange(network: nn.Module, compute: Compute) -> None:
    network.to(compute.device, memory_format=compute.layout)  # type: ignore[call-overload]


@contextmanager
def preserve_state(network: nn.Module) -> Iterator[None]:
    """Restores a network's buffers and the state of torch's CPU generator."""
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    random = torch.get_rng_state()
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        torch.set_rng_state(random)
