"""Heat maps: the layers they are made of, Grad-CAM against another library, and places in images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ftkit.api import Backbone, LayerGroup, Preprocessing, RequestError
from ftkit.explanation.grad_cam import ExplainedNetwork, recorders
from ftkit.explanation.image_place import map_on_image
from ftkit.explanation.target_layer import TargetLayer, find_target_layer
from tests.models import backbone

COMPARED = {
    "resnet18": "layer4",
    "vgg11_bn": "features",
    "googlenet": "inception5b",
    "mobilenet_v2": "features",
    "efficientnet_b0": "features",
    "shufflenet_v2_x0_5": "conv5",
    "squeezenet1_1": "features",
    "regnet_y_400mf": "trunk_output",
    "convnext_tiny": "features",
    "swin_t": "permute",
}
"""Networks, and the layers that Grad-CAM is usually computed from."""
UNPOOLED = ("vgg11_bn", "squeezenet1_1")
"""Those with other layers than average pooling between the layer and the last one; the others have one map by both."""
QUICK = ("resnet18", "squeezenet1_1", "shufflenet_v2_x0_5")
IMAGE = 96
"""Side of the images, in pixels."""


def described(name: str, classes: int = 5) -> tuple[nn.Module, Backbone, Preprocessing]:
    """A network with random weights, always the same, in eval mode."""
    found = backbone(name)
    size = max(IMAGE, found.min_size) // found.size_step * found.size_step
    size = size if not found.fixed_size or found.resized else found.preprocessing.size
    found = found.for_size(size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return found.build(classes).eval(), found, replace(found.preprocessing, size=size)


def layer_of(name: str) -> TargetLayer:
    network, found, preprocessing = described(name)
    return find_target_layer(network, found, preprocessing)


def normalise_activations(network: nn.Module, preprocessing: Preprocessing) -> None:
    """Set the statistics of BatchNorm: with random weights alone, activations vanish with depth."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(4, 3, preprocessing.size, preprocessing.size))
    network.eval()


def maps(network: nn.Module, layer: TargetLayer, images: Tensor, classes: Tensor) -> Tensor:
    with recorders((ExplainedNetwork(network, network, layer),)) as (recorder,):
        return recorder.maps(recorder.forward(images), classes)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.long) for n in COMPARED])
def test_the_maps_are_those_of_another_library(name: str) -> None:
    library = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    network, found, preprocessing = described(name)
    layer = find_target_layer(network, found, preprocessing)
    assert layer.name == COMPARED[name]
    normalise_activations(network, preprocessing)
    images = torch.randn(2, 3, preprocessing.size, preprocessing.size, generator=torch.Generator().manual_seed(1))
    ours = maps(network, layer, images, torch.tensor([1, 3]))
    ours = nn.functional.interpolate(ours[:, None], images.shape[-2:], mode="bilinear")[:, 0]
    ours = ours - ours.amin((1, 2), keepdim=True)
    ours = ours / (1e-7 + ours.amax((1, 2), keepdim=True))
    for method in ("HiResCAM",) if name in UNPOOLED else ("HiResCAM", "GradCAM"):
        with getattr(library, method)(network, [network.get_submodule(layer.name)]) as cam:
            theirs = torch.from_numpy(cam(images.clone(), [ClassifierOutputTarget(1), ClassifierOutputTarget(3)]))
        assert float((ours - theirs).abs().max()) < 1e-4, method


FAMILIES = (
    "alexnet", "densenet121", "efficientnet_v2_s", "inception_v3", "lenet", "maxvit_t", "mnasnet0_5",
    "mobilenet_v3_small", "resnext50_32x4d", "swin_v2_t", "vit_b_32", "wide_resnet50_2", "cifar_resnet20",
    "efficientnet_lite0",
)  # fmt: skip
QUICK_FAMILIES = ("lenet", "mobilenet_v3_small")


@pytest.mark.parametrize(
    "name", [n if n in QUICK_FAMILIES else pytest.param(n, marks=pytest.mark.long) for n in FAMILIES]
)
def test_every_family_has_a_map(name: str) -> None:
    network, found, preprocessing = described(name)
    layer = find_target_layer(network, found, preprocessing)
    images = torch.randn(2, preprocessing.channels, preprocessing.size, preprocessing.size)
    before = [parameter.requires_grad for parameter in network.parameters()]
    made = maps(network, layer, images, torch.tensor([0, 4]))
    assert made.shape == (2, layer.grid, layer.grid)
    assert layer.grid > 1
    assert bool(made.isfinite().all())
    assert float(made.min()) >= 0
    assert [parameter.requires_grad for parameter in network.parameters()] == before
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_vision_transformer_is_explained_by_its_attention() -> None:
    layer = layer_of("vit_b_32")
    assert (layer.form, layer.grid, layer.prefix, layer.attended) == ("tokens", 3, 1, True)


def test_channels_last_is_recognised() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 2)
            self.norm = nn.LayerNorm(8)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.norm(self.body(x).movedim(1, -1)).mean((1, 2)))
            return logits

    assert own(Last()) == TargetLayer("norm", "channels last", 4)


def own(network: nn.Module) -> TargetLayer:
    """The target layer of a network whose head is `head`, for images of 16 pixels."""
    groups = (LayerGroup("body", r"(?!head\.)"), LayerGroup("head", r"head\."))
    described = Backbone("own", groups, ("head",), lambda _: network, Preprocessing(size=16))
    return find_target_layer(network.eval(), described, described.preprocessing)


def test_a_network_without_places_is_refused() -> None:
    class Flat(nn.Sequential):
        def __init__(self) -> None:
            super().__init__()
            self.flat, self.hidden, self.head = nn.Flatten(), nn.Linear(768, 8), nn.Linear(8, 2)

    with pytest.raises(RequestError, match="own with images of 16 pixels has no layer with a value for each part"):
        own(Flat())


def test_a_class_token_is_not_part_of_the_map() -> None:
    """Attention by a function that isn't recognised: the layer before it is taken, whose tokens the head depends on."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.out = nn.LayerNorm(8), nn.LayerNorm(8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(x)
            out: Tensor = self.out(x + x.mean(dim=1, keepdim=True))
            return out

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.block, self.head = nn.Conv2d(3, 8, 4, 4), Block(), nn.Linear(8, 2)
            self.token = nn.Parameter(torch.zeros(1, 1, 8))

        def forward(self, x: Tensor) -> Tensor:
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = self.block(torch.cat([self.token.expand(len(x), -1, -1), x], dim=1))
            logits: Tensor = self.head(x[:, 0])
            return logits

    assert own(Tokens()) == TargetLayer("block.norm", "tokens", 4, 1)


GRID = torch.zeros(8, 8)
GRID[2, 5] = 1.0


@pytest.mark.parametrize(
    ("fit", "crop_pct", "shape", "place"),
    [
        ("stretch", 1.0, (80, 160), (25, 110)),
        ("crop", 1.0, (80, 160), (25, 95)),
        ("crop", 1.0, (160, 80), (65, 55)),
        ("crop", 0.5, (80, 80), (32, 47)),
        ("pad", 1.0, (80, 160), (10, 110)),
        ("crop", 1.0, (4, 400), (1, 200)),
    ],
)
def test_the_place_in_an_image(fit: str, crop_pct: float, shape: tuple[int, int], place: tuple[int, int]) -> None:
    """The middle of a part of the input, computed by hand, is where the map of the image is highest."""
    preprocessing = Preprocessing(size=64, crop_pct=crop_pct, fit=fit)  # type: ignore[arg-type]
    found = map_on_image(GRID, *shape, preprocessing)
    assert found.shape == shape
    assert float(found.max()) == 1.0
    assert float(found[place]) > 0.9


def test_what_the_network_does_not_see_is_zero() -> None:
    found = map_on_image(torch.ones(4, 4), 100, 200, Preprocessing(size=32, crop_pct=0.8))
    seen = found.nonzero()
    assert (seen.amin(0).tolist(), seen.amax(0).tolist()) == ([10, 60], [89, 139])


def test_a_map_of_zeros_stays_zero() -> None:
    assert not map_on_image(torch.zeros(4, 4), 10, 10, Preprocessing(size=32)).any()
