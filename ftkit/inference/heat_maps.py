"""Heat maps of many images: predictions, and which parts of each image raise the score of a class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F  # noqa: N812

from ftkit.explanation.grad_cam import ExplainedNetwork, Pass, Recorder, recorders
from ftkit.explanation.image_place import map_on_image
from ftkit.explanation.target_layer import find_target_layer
from ftkit.inference.classifier import Classifier, MemberNetwork, backbone_network
from ftkit.inference.image_inputs import ImageInput, read_pixels, try_read
from ftkit.inference.streaming import Read, grouped, stream_outputs
from ftkit.models.bundle import Loaded

if TYPE_CHECKING:
    from ftkit.inference.predictions import Prediction

BATCH = 4
"""Images at a time; the activations that gradients need take more memory than inference."""
THREADS = 4
"""Most threads that read images and, on a CPU, compute, for the same reason."""


@dataclass(frozen=True)
class HeatMap:
    """A prediction and the parts of the image that it comes from.

    Attributes:
        explained: The class whose score is explained: by default the predicted one, or of several the likeliest; None
            where the prediction has an `error`, as `values` and `image`.
        values: From 0 to 1, float32 `(height, width)`: how much each pixel's surroundings raise the score of the class;
            0 everywhere where nothing raises it.
        image: What the map lies on, uint8 `(height, width, 3)`, upright.
    """

    prediction: Prediction
    explained: str | None = None
    values: NDArray[np.float32] | None = None
    image: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class MappedImage:
    """The outputs for an image.

    Attributes:
        error: Why it can't be read, or None.
        logits: `(1, classes)`.
        label: The class that is explained.
        values, image: See `HeatMap`.
    """

    name: str
    error: str | None = None
    logits: Tensor | None = None
    label: int = 0
    values: NDArray[np.float32] | None = None
    image: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class _Picture:
    """The name of an image, its pixels, or why it can't be read."""

    name: str
    pixels: Tensor | None
    error: str | None


def explained_networks(loaded: Loaded, networks: Iterable[MemberNetwork]) -> tuple[ExplainedNetwork, ...]:
    """The networks of a model with the layers that explain them.

    Args:
        networks: The result of `inference_networks`.

    Raises:
        RequestError: A network has no layer that a heat map can be made of.
    """
    found = []
    for (one, _), member in zip(loaded.members or ((loaded, 1.0),), networks, strict=True):
        inner = backbone_network(member.network)
        assert one.backbone is not None, "of a single network"
        layer = find_target_layer(inner, one.backbone, one.card.preprocessing, one.compute)
        found.append(ExplainedNetwork(member.network, inner, layer))
    return tuple(found)


def stream_heat_maps(
    classifier: Classifier,
    explained: tuple[ExplainedNetwork, ...],
    images: Iterable[ImageInput],
    label: int | None = None,
    max_side: int | None = None,
    batch_size: int = BATCH,
) -> Iterator[MappedImage]:
    """The outputs for images and maps of them, in order; of an ensemble the weighted mean of its members' maps.

    Args:
        classifier: Without test-time augmentation.
        explained: The result of `explained_networks`.
        label: The class to explain; None for the likeliest of each image.
        max_side: The longer side, in pixels, that larger images are reduced to, with their maps.
    """
    groups, read = grouped(images, classifier.group_size(batch_size)), partial(_read, classifier, max_side)
    with recorders(explained) as attached:
        compute, threads = _Explainer(classifier, attached, label), min(THREADS, torch.get_num_threads())
        for pictures, outputs in stream_outputs(classifier.compute, compute, groups, read, threads):
            place = 0
            for picture in pictures:
                if picture.pixels is None:
                    yield MappedImage(picture.name, picture.error)
                    continue
                yield _mapped(picture, picture.pixels, classifier, [each[place] for each in outputs])
                place += 1


@dataclass(frozen=True)
class _Explainer:
    """Logits `(b, classes)`, the explained classes `(b,)`, and the map of each network, `(b, grid, grid)`."""

    classifier: Classifier
    recorders: tuple[Recorder, ...]
    label: int | None

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        networks = self.classifier.networks
        if self.classifier.is_plain:
            found = [self.recorders[0].forward(images)]
            logits = found[0].logits.detach()
        else:
            views = self.classifier.unpacked(images)
            found = [self._member(each, network, views) for each, network in zip(self.recorders, networks, strict=True)]
            weights = torch.tensor([network.weight for network in networks], device=images.device)
            logits = self.classifier.task.averaged(torch.stack([one.logits.detach().float() for one in found]), weights)
        labels = logits.argmax(dim=1) if self.label is None else torch.full_like(logits[:, 0], self.label).long()
        maps = [each.maps(one, labels) for each, one in zip(self.recorders, found, strict=True)]
        return logits, labels, *maps

    def _member(self, recorder: Recorder, network: MemberNetwork, views: Any) -> Pass:
        with network.compute.autocast():
            return recorder.forward(network.compute.to_device(views[network.preprocessing][:, 0]))


def read_views(classifier: Classifier, image: ImageInput) -> tuple[Tensor, Tensor]:
    """The pixels of an image, uint8 `(channels, height, width)`, and what the classifier takes.

    Raises:
        UnreadableImage: It can't be read; the message is the reason, without the name.
    """
    pixels = [read_pixels(image, each.channels, each.value_range) for each in classifier.transforms]
    views = [each(own) for each, own in zip(classifier.transforms, pixels, strict=True)]
    return pixels[0], classifier.joined(views)


def _read(classifier: Classifier, max_side: int | None, image: ImageInput) -> Read[_Picture]:
    found, error = try_read(partial(read_views, classifier), image)
    if found is None:
        return None, _Picture(image.name, None, error)
    return found[1], _Picture(image.name, _reduced(found[0], max_side), None)


def _reduced(pixels: Tensor, max_side: int | None) -> Tensor:
    height, width = pixels.shape[-2:]
    if max_side is None or max(height, width) <= max_side:
        return pixels
    scale = max_side / max(height, width)
    smaller: Tensor = F.resize(pixels, [max(1, round(side * scale)) for side in (height, width)], antialias=True)
    return smaller


def _mapped(picture: _Picture, pixels: Tensor, classifier: Classifier, outputs: list[Tensor]) -> MappedImage:
    logits, label, *maps = outputs
    height, width = pixels.shape[-2:]
    values = torch.zeros(height, width)
    for network, each in zip(classifier.networks, maps, strict=True):
        values += network.weight * map_on_image(each.cpu(), height, width, network.preprocessing)
    values /= values.max().clamp(min=torch.finfo().tiny)
    colours = pixels.expand(3, -1, -1).movedim(0, -1).numpy()
    return MappedImage(
        picture.name, None, logits[None].cpu(), int(label), values.numpy(), np.ascontiguousarray(colours)
    )
