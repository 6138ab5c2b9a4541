"""Every backbone comes back from a bundle as it was saved: the same tensors, the same logits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from ftkit.api import Backbone
from ftkit.models.bundle import load_bundle
from ftkit.models.surgery import build_network
from ftkit.parts.backbone import Head
from tests.families import QUICK
from tests.models import backbone, parts, save_model

CLASSES = ("ants", "bees", "wasps")

# The smallest of each family. Of the heaviest two, the bundle and the two networks take 8 GB of memory and
# 3 GB of disk, which the long tests have.
SAMPLE = (
    "alexnet", "cifar_resnet20", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_lite0",
    "efficientnet_v2_s", "googlenet", "inception_v3", "lenet", "maxvit_t", "mnasnet0_5", "mobilenet_v2",
    "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1",
    "swin_t", "swin_v2_t", "vgg11", "vit_b_16", "wide_resnet50_2",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A place for a bundle, which may be too large to be left lying there."""
    yield tmp_path / "model"
    shutil.rmtree(tmp_path / "model", ignore_errors=True)


def smallest(name: str) -> Backbone:
    """The backbone at the smallest size that it can take; 1 pixel, where that is no image any more, counts as 32."""
    described = backbone(name)
    if described.fixed_size and described.resized is None:
        return described
    size = described.min_size if described.min_size > 1 else 32
    return replace(described.for_size(size), preprocessing=replace(described.preprocessing, size=size))


def comes_back(folder: Path, described: Backbone, head: Head, channels: int) -> nn.Module:
    """Check that a network comes back as it was saved, and return it."""
    preprocessing = described.preprocessing.grey() if channels == 1 else described.preprocessing
    torch.manual_seed(3)
    network = build_network(described, len(CLASSES), head, channels).eval()
    save_model(folder, CLASSES, described.name, network, preprocessing, head=head)
    loaded = load_bundle(folder, "cpu", "fp32")
    expected, found = network.state_dict(), loaded.model.state_dict()
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert tensor.dtype == found[name].dtype
        assert torch.equal(tensor, found[name]), name
    image = torch.randn(1, channels, preprocessing.size, preprocessing.size)
    with torch.inference_mode():
        logits = loaded.model(image)
        assert torch.equal(logits, network.to(memory_format=loaded.compute.layout)(image))
    assert logits.shape == (1, len(CLASSES))
    assert bool(logits.isfinite().all())
    return loaded.model


def test_the_sample_is_the_smallest_of_each_family() -> None:
    def size(name: str) -> int:
        summary = backbone(name).summary
        return summary.parameters(0) if summary else 0

    families: dict[str, list[str]] = {}
    for name in parts("backbones"):
        families.setdefault(backbone(name).family, []).append(name)
    assert set(SAMPLE) == {min(names, key=size) for names in families.values()}


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK & set(SAMPLE) else pytest.param(n, marks=pytest.mark.long) for n in parts("backbones")],
)
def test_a_backbone_comes_back_from_its_bundle(name: str, folder: Path) -> None:
    described = smallest(name)
    comes_back(folder, described, Head(), described.preprocessing.channels)


@pytest.mark.parametrize(
    "name", [n if n in ("cifar_resnet20", "squeezenet1_1") else pytest.param(n, marks=pytest.mark.long) for n in SAMPLE]
)
def test_it_does_with_a_head_of_two_layers_on_grey_images(name: str, folder: Path) -> None:
    model = comes_back(folder, smallest(name), Head(hidden=5, dropout=0.5), channels=1)
    layers = model.get_submodule(backbone(name).head[0])
    assert [type(layer).__name__ for layer in layers.children()][1:3] == ["ReLU", "Dropout"]


@pytest.mark.parametrize("name", ["cifar_resnet20", "squeezenet1_1"])
def test_it_does_with_dropout(name: str, folder: Path) -> None:
    model = comes_back(folder, smallest(name), Head(dropout=0.5), backbone(name).preprocessing.channels)
    plain = backbone(name).build(len(CLASSES))
    assert list(model.state_dict()) == list(plain.state_dict())
