"""How many times as fast networks are in bf16 as in fp32, forward and in a training step, on one device.

    python benchmarks/precision.py [--device cpu] [--networks resnet18,convnext_tiny,timm/tf_efficientnet_lite0]
                                   [--size 224] [--batch-size 4] [--times 3]

`--precision auto` follows these ratios (docs/speed.md). Networks are those of torchvision, with random weights, or with
timm installed `timm/NAME`. On a CPU the processor time of one thread is measured, which other programs disturb little;
on other devices the time until the device is done. Each is the shortest of several, after one that isn't counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torchvision
from cache import machine
from torch import nn

from ftkit.models.compute.precision import choose_precision, traits_of

NETWORKS = (
    "resnet18",
    "resnet50",
    "regnet_y_400mf",
    "squeezenet1_1",
    "convnext_tiny",
    "vit_b_16",
    "efficientnet_b0",
    "mobilenet_v2",
    "mobilenet_v3_small",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--size", type=int, default=224, help="side of the input in pixels")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--times", type=int, default=3)
    wanted = parser.parse_args()
    device = torch.device(wanted.device)
    torch.set_num_threads(1)
    print(f"{machine()}; {wanted.device}, {wanted.size} pixels\n")
    print("| network | forward | training step | precision auto, in training and evaluation |")
    print("| --- | --- | --- | --- |")
    images = torch.randn(wanted.batch_size, 3, wanted.size, wanted.size, device=device)
    for name in wanted.networks.split(","):
        network = built(name).to(device).to(memory_format=torch.channels_last)
        ratios = speed_ratios(network, images.to(memory_format=torch.channels_last), wanted.times)
        traits = partial(traits_of, network, {key for key, _ in network.named_parameters()})
        chosen = choose_precision("auto", device.type, traits)
        numbers = " | ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"| {name} | {numbers} | {chosen.training} and {chosen.evaluation} |", flush=True)


def built(name: str) -> nn.Module:
    network: nn.Module
    if name.startswith("timm/"):
        import timm

        network = timm.create_model(name.removeprefix("timm/"))
    else:
        network = torchvision.models.get_model(name, weights=None)
    return network


def speed_ratios(network: nn.Module, images: torch.Tensor, times: int) -> Iterator[float]:
    """Seconds in fp32 by seconds in bf16 of a forward pass without gradients, and of a training step."""
    for make in (forward, training_step):
        fp32, bf16 = (shortest(make(network, images, half), images.device, times) for half in (False, True))
        yield fp32 / bf16


def forward(network: nn.Module, images: torch.Tensor, half: bool) -> Callable[[], None]:
    network.eval()

    @torch.no_grad()
    def run() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            network(images)

    return run


def training_step(network: nn.Module, images: torch.Tensor, half: bool) -> Callable[[], None]:
    network.train()

    def run() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            outputs = network(images)
        outputs.float().square().mean().backward()
        network.zero_grad()

    return run


def shortest(run: Callable[[], None], device: torch.device, times: int) -> float:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    found = []
    for _ in range(1 + times):
        began = clock()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        elif device.type == "mps":
            torch.mps.synchronize()
        found.append(clock() - began)
    return min(found[1:])


if __name__ == "__main__":
    main()
