"""Weights and images are channels last where a network supports it; no network is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from ftkit.models.compute.devices import Compute
from ftkit.models.compute.memory_format import cast_for_inference, choose_memory_format

CPU = Compute(torch.device("cpu"), "fp32")


class Viewed(nn.Module):
    """Flattens as many tutorials do, which takes the layout of the convolution's output for granted."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout())
        self.head = nn.Linear(8 * 6 * 6, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(images)
        logits: Tensor = self.head(features.view(len(features), -1))
        return logits


class Flattened(Viewed):
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images).flatten(1))
        return logits


@pytest.mark.parametrize(("network", "layout"), [(Viewed, torch.contiguous_format), (Flattened, torch.channels_last)])
def test_a_network_gets_the_layout_that_it_supports(network: type[Viewed], layout: torch.memory_format) -> None:
    made = network()
    compute = choose_memory_format(made, CPU, 3, 8)
    weight = next(made.parameters())
    assert compute.layout == layout
    assert weight.is_contiguous(memory_format=layout)
    images = compute.to_device(torch.randn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last))
    assert images.is_contiguous(memory_format=layout)
    made(images).sum().backward()


def test_trying_a_network_changes_nothing() -> None:
    made = Flattened()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    random = torch.get_rng_state()
    choose_memory_format(made, CPU, 3, 8)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert made.training


def test_activations_without_height_and_width_have_no_layout() -> None:
    features = torch.randn(4, 7)
    assert Compute(torch.device("cpu"), "fp32", torch.channels_last).to_device(features) is features


class Stretched(Flattened):
    """Uses a weight by itself, which 16 bits would change."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).float() + 1e4 * self.head.weight.sum()


BF16 = Compute(torch.device("cpu"), "bf16")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cast_weights_are_those_of_autocast(precision: str) -> None:
    made = Flattened().eval()
    compute = Compute(torch.device("cpu"), precision)
    quick = cast_for_inference(made, compute, 3, 8)
    images = torch.randn(5, 3, 8, 8)
    with torch.no_grad(), compute.autocast():
        assert torch.equal(quick(images), made(images))
    found = {name: value.dtype for name, value in quick.state_dict().items() if value.is_floating_point()}
    kept = {name for name, dtype in found.items() if dtype == torch.float32}
    assert kept == ({name for name in found if "body.1" in name} if precision == "bf16" else set(found))
    assert all(parameter.dtype == torch.float32 for parameter in made.parameters())
    assert quick.state_dict()["body.1.weight"].data_ptr() == made.state_dict()["body.1.weight"].data_ptr()


def test_a_network_with_other_outputs_after_casting_isnt_cast() -> None:
    made = Stretched().eval()
    assert cast_for_inference(made, BF16, 3, 8) is made


def test_a_network_that_would_crash_in_that_layout_keeps_the_other() -> None:
    """torch's backward pass of a strided convolution of one pixel on a few channels writes past its memory there."""
    program = (
        "import torch; from torch import nn; from ftkit.models.compute.devices import Compute;"
        "from ftkit.models.compute.memory_format import choose_memory_format; torch.set_num_threads(1);"
        "network = nn.Sequential(nn.Conv2d(3, 48, 1, 2, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten());"
        "compute = choose_memory_format(network, Compute(torch.device('cpu'), 'fp32'), 3, 64);"
        "[network(compute.to_device(torch.randn(3, 3, 64, 64))).square().sum().backward() for _ in range(20)];"
        "print(compute.layout)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "torch.contiguous_format"), done.stderr
