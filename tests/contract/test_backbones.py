"""What every built-in backbone keeps to."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest
import torch
from torch import nn
from torchvision import models

from ftkit.api import Summary
from ftkit.models.model_size import measure
from ftkit.testing import check_backbone
from ftkit.testing.checks.backbone_checks import check_training
from tests.families import QUICK
from tests.models import backbone, parts

BACKBONES = parts("backbones")
TORCHVISION = BACKBONES.keys() & set(models.list_models(module=models))
CLASSES = 7

# The smallest of each family, and a size that is small, legal and not the minimum where that degenerates.
SMALL = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "efficientnet_lite0": 32,
    "efficientnet_v2_s": 32,
    "googlenet": 32,
    "inception_v3": 299,
    "maxvit_t": 224,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "resnext50_32x4d": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 32,
    "swin_t": 32,
    "swin_v2_t": 32,
    "vgg11": 32,
    "vit_b_16": 32,
    "wide_resnet50_2": 32,
    "cifar_resnet20": 32,
    "lenet": 28,
}

everyone = pytest.mark.parametrize("name", BACKBONES)


@cache
def on_meta(name: str) -> nn.Module:
    if name.startswith("regnet"):  # It computes its widths by tensors, which have no values there.
        return backbone(name).build(CLASSES).to("meta")
    with torch.device("meta"):
        return backbone(name).build(CLASSES)


def test_the_listing_is_torchvisions_and_ours() -> None:
    assert set(models.list_models(module=models)) == TORCHVISION
    assert len(BACKBONES) == 80 + 4 + 3 + 1
    assert {backbone(name).family for name in SMALL} == {backbone(name).family for name in BACKBONES}


def test_listing_with_all_facts_imports_no_torch() -> None:
    code = (
        "import sys; from ftkit.cli.main import main\n"
        "code = main(['backbones', 'list', '--json'])\n"
        "print(code, sorted({'torch', 'torchvision', 'numpy'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "0 []\n"
    assert len(json.loads(done.stdout)) == 88


def test_parameter_counts_are_the_published_ones() -> None:
    """Whole networks with 1,000 classes; googlenet's published count leaves out its auxiliary classifiers."""
    for name in TORCHVISION:
        published = models.get_model_weights(name).DEFAULT.meta["num_params"]
        assert sizes(name).parameters(1000) == (13_004_888 if name == "googlenet" else published), name
    assert sizes("cifar_resnet20").parameters(10) == 269_722  # 0.27M in the paper
    assert sizes("cifar_resnet56").parameters(10) == 853_018  # 0.85M in the paper
    assert sizes("lenet").parameters(10) == 61_706


@everyone
def test_it_describes_the_network_that_it_builds(name: str) -> None:
    check_backbone(backbone(name), train=False)


def sizes(name: str) -> Summary:
    summary = backbone(name).summary
    assert summary is not None
    return summary


@pytest.mark.parametrize(
    "name", [n if n in SMALL else pytest.param(n, marks=pytest.mark.long) for n in BACKBONES], ids=list(BACKBONES)
)
def test_the_measures_of_the_table_are_the_built_networks(name: str) -> None:
    measured = measure(backbone(name))
    assert measured.head_inputs == sizes(name).head_inputs
    assert measured.head_bias == sizes(name).head_bias
    assert measured.input_weights == sizes(name).input_weights
    for group, size in sizes(name).groups.items():
        assert dict(measured.groups[group].parameters) == dict(size.parameters)
        assert measured.groups[group].entering == size.entering
        assert measured.groups[group].activations == pytest.approx(size.activations, rel=0.1)  # torch's choice


def trainable_cases() -> list[object]:
    rest = [n for n in BACKBONES if n not in SMALL]  # of the largest, weights and gradients take 5 GB of memory
    return [n if n in QUICK else pytest.param(n, marks=pytest.mark.long) for n in [*SMALL, *rest]]


@pytest.mark.parametrize("name", trainable_cases())
def test_trains_with_a_new_head_and_then_with_the_head_alone(name: str) -> None:
    size = SMALL.get(name, max(backbone(name).min_size, 32 - 32 % backbone(name).size_step))
    check_training(backbone(name), size)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if backbone(n).min_size > 1 else pytest.mark.long)
        for n in SMALL
        if not backbone(n).fixed_size
    ],
)
def test_takes_its_smallest_size_and_nothing_smaller(name: str) -> None:
    described, model = backbone(name), on_meta(name).train()
    model(torch.empty(2, 3, described.min_size, described.min_size, device="meta"))
    if described.min_size > 1:
        less = described.min_size - 1
        with pytest.raises((RuntimeError, ValueError)):
            model(torch.empty(2, 3, less, less, device="meta"))


@pytest.mark.parametrize(("name", "smallest"), [("lenet", 28), ("vit_b_32", 32), ("vit_h_14", 14), ("maxvit_t", 224)])
def test_a_fixed_size_is_fixed(name: str, smallest: int) -> None:
    described, model = backbone(name), on_meta(name).train()
    assert described.fixed_size
    assert described.min_size == smallest
    size = 2 * described.preprocessing.size
    with pytest.raises((RuntimeError, ValueError, AssertionError)):
        model(torch.empty(2, described.preprocessing.channels, size, size, device="meta"))


def test_groups_are_what_the_field_calls_them() -> None:
    assert backbone("resnet50").group_names == ("stem", "layer1", "layer2", "layer3", "layer4", "head")
    assert backbone("vgg16").group_names[-3:] == ("block5", "hidden", "head")
    assert backbone("vit_b_16").group_names == ("stem", "stage1", "stage2", "stage3", "stage4", "head")
    assert backbone("vgg16").head == ("classifier.6",)
    assert backbone("googlenet").head == ("fc", "aux1.fc2", "aux2.fc2")
    assert (backbone("googlenet").aux_weight, backbone("inception_v3").aux_weight) == (0.3, 0.3)


def test_preprocessing_is_that_of_the_weights() -> None:
    second, first = backbone("resnet50").weights
    assert (second.name, first.name) == ("IMAGENET1K_V2", "IMAGENET1K_V1")
    assert (second.preprocessing.size, second.preprocessing.resize) == (224, 232)
    assert (first.preprocessing.size, first.preprocessing.resize) == (224, 256)
    inception = backbone("inception_v3").preprocessing
    assert (inception.size, inception.resize) == (299, 342)
    large = backbone("efficientnet_v2_l").preprocessing
    assert (large.size, large.crop_pct, large.interpolation, large.mean) == (480, 1.0, "bicubic", (0.5, 0.5, 0.5))
    for name in BACKBONES:
        for weights in backbone(name).weights:
            assert weights.file
            assert weights.size_mb > 0


def test_a_cifar_resnet_takes_other_sizes() -> None:
    assert backbone("cifar_resnet20").build(CLASSES)(torch.randn(2, 3, 64, 64)).shape == (2, CLASSES)
