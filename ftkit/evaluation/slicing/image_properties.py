"""Properties of the images of a split, measured while they are read for the network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d
from torchvision.transforms.v2 import functional as F  # noqa: N812

from ftkit.data.loading.pixels import sample_pixels
from ftkit.errors import RequestError
from ftkit.evaluation.evaluator import ComputeOptions, Extras, outputs_of
from ftkit.evaluation.slicing.groupings import Grouping, by_cluster, by_range
from ftkit.files.cache_folder import CacheStore
from ftkit.inference.head_features import flat_features
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
    loaded: Loaded, split: Split, options: ComputeOptions, wanted: Sequence[str], store: CacheStore | None = None
) -> tuple[Tensor, list[Grouping]]:
    """A model's logits for each image, float32 `(n, classes)`, and groups of the images by properties; in one pass.

    Args:
        wanted: Of `PROPERTIES`.
        store: See `compute_logits`.

    Raises:
        RequestError: Clusters are wanted of an ensemble, which has no features of its own.
        FtkitError: An image can't be read.
    """
    if CLUSTER in wanted and loaded.members:
        raise RequestError(
            f"--slice-by {CLUSTER}: an ensemble has no features of its own",
            f"give other properties with --slice-by: {', '.join(PROPERTIES[:-1])}",
        )
    values, value_range = np.full((len(split), 4), np.nan), loaded.card.preprocessing.value_range

    def pixels(index: int, channels: int) -> Tensor:
        found = sample_pixels(split, index, channels, value_range=value_range)
        if np.isnan(values[index, 0]):
            values[index] = measure(found)
        return found

    extras = Extras(_projected if CLUSTER in wanted else None, pixels)
    logits, features = outputs_of(loaded, split, options, store, extras=extras)
    found = _numeric(values, wanted)
    if features is not None:
        found.append(by_cluster(CLUSTER, features.numpy()))
    return logits, found


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
