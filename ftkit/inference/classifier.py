"""A model applied to images: one network or several, one view of each image or several, probabilities averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ftkit.errors import unknown
from ftkit.models.bundle import Loaded
from ftkit.models.compute.devices import Compute
from ftkit.models.compute.memory_format import cast_for_inference
from ftkit.models.ensembles.ensemble_network import Reordered
from ftkit.parts.task import Task
from ftkit.transforms.pipeline import Transform, evaluation
from ftkit.transforms.preprocessing import Preprocessing
from ftkit.transforms.view_choices import VIEWS, Tta
from ftkit.transforms.views import Views, with_mirrored
from ftkit.uncertainty.calibrated_network import CalibratedNetwork, calibrated_network


@dataclass(frozen=True)
class MemberNetwork:
    """A network of a model, ready for inference.

    Attributes:
        weight: Its part of the mean; the weights of all networks have the sum 1.
        preprocessing: What its images go through.
    """

    network: nn.Module
    compute: Compute
    preprocessing: Preprocessing
    weight: float = 1.0

    def logits(self, views: Tensor) -> Tensor:
        """Logits float32 `(views, b, classes)` of images `(b, views, channels, size, size)`."""
        count = views.shape[1]
        with self.compute.autocast():
            parts = [self.network(part).float() for part in self.compute.inference_batches(views.flatten(0, 1))]
        return torch.cat(parts).reshape(len(views), count, -1).transpose(0, 1)


def inference_networks(loaded: Loaded) -> tuple[MemberNetwork, ...]:
    """The networks of a model, their weights cast for inference; they give calibrated logits."""
    found = []
    for one, weight in loaded.members or ((loaded, 1.0),):
        preprocessing = one.card.preprocessing
        network = cast_for_inference(one.model, one.compute, preprocessing.channels, preprocessing.size)
        network = calibrated_network(network, one.card.calibration, one.compute.device)
        found.append(MemberNetwork(network, one.compute, preprocessing, weight))
    return tuple(found)


def backbone_network(network: nn.Module) -> nn.Module:
    """The network that a backbone describes, within one that reorders or calibrates its outputs."""
    while isinstance(network, Reordered | CalibratedNetwork):
        network = network.network
    return network


@dataclass(frozen=True)
class Classifier:
    """The logits of a model for images.

    One network with one view takes images `(b, channels, size, size)` as it is. Otherwise the views of an image for all
    networks travel in one row, `(b, values)`, so that each image is read once.

    Attributes:
        tta: The views of each image; the result has the mean of their probabilities.
    """

    networks: tuple[MemberNetwork, ...]
    task: Task
    tta: Tta = "none"

    def __post_init__(self) -> None:
        """Raises RequestError: There is no such `tta`."""
        if self.tta not in VIEWS:
            raise unknown("tta", str(self.tta), VIEWS)

    @property
    def is_plain(self) -> bool:
        """Whether it is one network with one view."""
        return len(self.networks) == 1 and self.tta == "none"

    @property
    def compute(self) -> Compute:
        """Where images are sent; several networks compute in a precision of their own each."""
        own = self.networks[0].compute
        return own if self.is_plain else Compute(own.device, "fp32")

    @cached_property
    def transforms(self) -> tuple[Transform, ...]:
        """What the pixels of an image go through; more than one if the networks need it read in different ways."""
        return (evaluation(self.networks[0].preprocessing),) if self.is_plain else self._views

    @cached_property
    def _views(self) -> tuple[Views, ...]:
        grouped: dict[object, dict[Preprocessing, None]] = {}
        for each in (network.preprocessing for network in self.networks):
            grouped.setdefault((each.channels, each.value_range), {})[each] = None
        return tuple(Views(tuple(group), self.tta == "crops") for group in grouped.values())

    def joined(self, transformed: Sequence[Tensor]) -> Tensor:
        """What is stacked to the argument of a call, of an image after each of `transforms`."""
        return transformed[0] if self.is_plain else torch.cat(list(transformed))

    def group_size(self, batch_size: int) -> int:
        """Number of images to read for a call, at most `batch_size`; less where an image has many views."""
        size = max(network.preprocessing.size for network in self.networks)
        stored = 1 if self.is_plain else sum(len(views.preprocessings) * views.count for views in self._views)
        return max(1, min(batch_size, 2 * self.compute.inference_batch_size(size)) // stored)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of stacked images, `(b, classes)`; with several networks or views float32."""
        if self.is_plain:
            plain: Tensor = self.networks[0].network(images)
            return plain
        views, logits, weights = self.unpacked(images), list[Tensor](), list[float]()
        for network in self.networks:
            logits.append(network.logits(views[network.preprocessing]))
            weights += [network.weight / VIEWS[self.tta]] * VIEWS[self.tta]
        found = torch.cat(logits)
        return self.task.averaged(found, torch.tensor(weights, device=found.device))

    def unpacked(self, images: Tensor) -> dict[Preprocessing, Tensor]:
        """The views for each preprocessing, `(b, views, channels, size, size)`; of several networks or views."""
        found: dict[Preprocessing, Tensor] = {}
        parts = torch.split(images, [sum(views.widths) for views in self._views], dim=1)
        for views, part in zip(self._views, parts, strict=True):
            found.update(zip(views.preprocessings, views.unpacked(part), strict=True))
        return found if self.tta == "none" else {each: with_mirrored(part) for each, part in found.items()}
