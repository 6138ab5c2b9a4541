"""How weights and images lie in memory: channels last, and for computing forward in 16 bits, where the network can take
it and that is quicker.
"""

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
"""Channels from which on torch computes a strided convolution of one pixel on channels last without fault."""


def choose_memory_format(network: nn.Module, compute: Compute, channels: int, size: int) -> Compute:
    """Move a network to its device, in the layout that is quickest there; no value changes.

    Convolutions are quicker on channels last on CPUs, and on GPUs in 16 bits. A network whose own code takes the
    other layout for granted, as `x.view(len(x), -1)` does, fails on two images that it is tried on, and keeps that one.

    Args:
        size: Side of the images, in pixels.

    Returns:
        The same device and precision, with the layout that images must have.
    """
    device = compute.device
    quicker = device.type == "cpu" or (device.type == "cuda" and compute.precision != "fp32")
    if not quicker or (device.type == "cpu" and _crashes_on_channels_last(network)):
        network.to(device)
        return compute
    last = replace(compute, layout=torch.channels_last)
    _arrange(network, last)
    images = last.take(torch.zeros(2, channels, size, size))
    try:
        with restored(network), torch.no_grad(), last.autocast():
            network(images)
    except Exception:
        # Whatever else it may mean is said when the network is used.
        _arrange(network, compute)
        return compute
    return last


def _crashes_on_channels_last(network: nn.Module) -> bool:
    """Whether torch's backward pass on the CPU would write past its memory there (2.15), which ends the process.

    It does for a convolution of one pixel with a stride on fewer than four channels, as RepVGG's and FastViT's first.
    """
    return any(
        isinstance(module, nn.Conv2d)
        and module.in_channels < FEWEST
        and set(module.kernel_size) == {1}
        and set(module.stride) != {1}
        for module in network.modules()
    )


def cast(network: nn.Module, compute: Compute, channels: int, size: int) -> nn.Module:
    """A network to compute forward with, whose weights are what autocast would make of the others at each call.

    These are the weights of convolutions and linear layers; all else is shared with the network. A network that doesn't
    give the same so, to the bit, on two images that it is tried on, is returned as it is; in fp32 it always is.

    Args:
        network: In eval mode, on its device; gives a tensor or several.
        size: Side of the images, in pixels.
    """
    if compute.precision == "fp32":
        return network
    images = compute.take(torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0)))
    try:
        quick = _cast(network, DTYPES[compute.precision])
        with restored(network), torch.no_grad(), compute.autocast():
            ones, others = (
                tuple(out) if isinstance(out, tuple) else (out,) for out in (network(images), quick(images))
            )
    except Exception:
        # Whatever a network's own code does with its weights, or with being copied.
        return network
    return quick if all(map(torch.equal, ones, others)) else network


def _cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    known: dict[int, Any] = {}
    for module in network.modules():
        multiplies = isinstance(module, nn.Linear | _ConvNd)
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            known[id(tensor)] = nn.Parameter(tensor.detach().to(dtype), False) if multiplies else tensor
    return deepcopy(network, known)


def _arrange(network: nn.Module, compute: Compute) -> None:
    network.to(compute.device, memory_format=compute.layout)  # type: ignore[call-overload]


@contextmanager
def restored(network: nn.Module) -> Iterator[None]:
    """Puts buffers and random numbers back to what they were, whatever the network does meanwhile."""
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    random = torch.get_rng_state()
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        torch.set_rng_state(random)
