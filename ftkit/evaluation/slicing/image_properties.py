"""Properties of the images of a split, measured while they are read for the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d
from torchvision.transforms.v2 import functional as F  # noqa: N812

from ftkit.data.loading.loader import raise_failures
from ftkit.data.loading.order import Key
from ftkit.data.loading.pixels import sample_pixels
from ftkit.errors import RequestError
from ftkit.evaluation.evaluator import ComputeOptions, split_reader
from ftkit.evaluation.slicing.groupings import Grouping, by_cluster, by_range
from ftkit.inference.classifier import Classifier, inference_networks
from ftkit.inference.head_features import classifier_with_features, flat_features
from ftkit.inference.streaming import grouped, stream_outputs
from ftkit.models.bundle import Loaded
from ftkit.parts.dataset import Split
from ftkit.parts.metric import Array

SIZE, ASPECT, BRIGHTNESS, BLUR, CLUSTER = "size", "aspect-ratio", "brightness", "sharpness", "cluster"
PROPERTIES = (SIZE, ASPECT, BRIGHTNESS, BLUR, CLUSTER)
MEASURED_SIDE = 512
"""Longer side, in pixels, that an image is reduced to before its sharpness is measured."""
MOST_FEATURES = 128
"""Features that clusters are made of; more are projected at random, which keeps distances within some percent."""
LAPLACIAN = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]


def measure(pixels: Tensor) -> tuple[float, float, float, float]:
    """The shorter side in pixels, width by height, brightness from 0 to 1, and sharpness of an image.

    Brightness is the mean grey level. Sharpness is the variance of the Laplacian of grey levels from 0 to 255, of the
    image reduced to `MEASURED_SIDE`: low for blurred images.

    Args:
        pixels: uint8 `(channels, height, width)`.
    """
    height, width = pixels.shape[-2:]
    scale = MEASURED_SIDE / max(height, width)
    grey = F.rgb_to_grayscale(pixels) if len(pixels) == 3 else pixels
    brightness = float(grey.float().mean()) / 255
    if scale < 1:
        grey = F.resize(grey, [max(1, round(side * scale)) for side in (height, width)], antialias=True)
    edges = conv2d(grey[None].float(), LAPLACIAN) if min(grey.shape[-2:]) > 2 else torch.zeros(1)
    return min(height, width), width / height, brightness, float(edges.var(correction=0))


def logits_and_groupings(
    loaded: Loaded, split: Split, options: ComputeOptions, wanted: Sequence[str]
) -> tuple[Tensor, list[Grouping]]:
    """A model's logits for each image, float32 `(n, classes)`, and groups of the images by properties; in one pass.

    Args:
        wanted: Of `PROPERTIES`.

    Raises:
        RequestError: Clusters are wanted of an ensemble, which has no features of its own.
        FtkitError: An image can't be read.
    """
    if CLUSTER in wanted and loaded.members:
        raise RequestError(
            f"--slice-by {CLUSTER}: an ensemble has no features of its own",
            f"give other properties with --slice-by: {', '.join(PROPERTIES[:-1])}",
        )
    classifier = Classifier(inference_networks(loaded), loaded.task, options.tta)
    values = np.full((len(split), 4), np.nan)

    def pixels(index: int, channels: int) -> Tensor:
        found = sample_pixels(split, index, channels, value_range=classifier.transforms[0].value_range)
        if np.isnan(values[index, 0]):
            values[index] = measure(found)
        return found

    keys: Iterable[Key] = ((0, index, 0) for index in range(len(split)))
    groups = grouped(keys, classifier.group_size(options.batch_size))
    logits, features = list[Tensor](), list[Tensor]()
    # The features are a second output, where they are wanted.
    plain = nullcontext(classifier)
    with classifier_with_features(loaded, classifier) if CLUSTER in wanted else plain as network:
        read = split_reader(classifier, split, pixels)
        for rest, outputs in stream_outputs(classifier.compute, network, groups, read, options.threads):
            raise_failures(rest)
            logits.append(outputs[0].float().cpu())
            features += [_projected(each.cpu()) for each in outputs[1:]]
    found = _numeric(values, wanted)
    if features:
        found.append(by_cluster(CLUSTER, torch.cat(features).numpy()))
    return torch.cat(logits), found


def _numeric(values: Array, wanted: Sequence[str]) -> list[Grouping]:
    texts = {SIZE: "{:.0f}".format, ASPECT: "{:.2f}".format, BRIGHTNESS: "{:.2f}".format, BLUR: _sharpness}
    rows = zip(texts.items(), values.T, strict=True)
    return [by_range(name, column, text) for (name, text), column in rows if name in wanted]


def _sharpness(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _projected(features: Tensor) -> Tensor:
    flat = flat_features(features)
    width = flat.shape[1]
    if width <= MOST_FEATURES:
        return flat
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(width, MOST_FEATURES, generator=generator) / MOST_FEATURES**0.5
    projected: Tensor = flat @ projection
    return projected
