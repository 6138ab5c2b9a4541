"""How weights and images lie in memory: channels last, where that is quicker and the network can take it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from ftkit.engine.devices import Compute


def settle(network: nn.Module, compute: Compute, channels: int, size: int) -> Compute:
    """Move a network to its device, in the layout that is quickest there; no value changes.

    Convolutions are quicker on channels last on CPUs, and on GPUs in 16 bits. A network whose own code takes the
    other layout for granted, as `x.view(len(x), -1)` does, fails on two images that it is tried on, and keeps that one.

    Args:
        size: Side of the images, in pixels.

    Returns:
        The same device and precision, with the layout that images must have.
    """
    device = compute.device
    if not (device.type == "cpu" or (device.type == "cuda" and compute.precision != "fp32")):
        network.to(device)
        return compute
    last = replace(compute, layout=torch.channels_last)
    _arrange(network, last)
    images = last.take(torch.zeros(2, channels, size, size))
    try:
        with restored(network), torch.no_grad(), last.autocast():
            network(images)
    except RuntimeError:
        # Whatever else it may mean is said when the network is used.
        _arrange(network, compute)
        return compute
    return last


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
