"""Features of training images that a model keeps, to say how unlike them another image is.

The distance of an image is one less the cosine between its features and those of its tenth nearest training image
(Sun, Ming, Zhu and Li, Out-of-Distribution Detection with Deep Nearest Neighbors, 2022). Distance and energy, each in
standard deviations of the reference images, are summed: the energy is high where no class fits, the distance where an
image is unlike the training images altogether. The file `features.safetensors` lies beside the model's card; it holds
only for that model, whose digest it has.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ftkit.errors import RequestError
from ftkit.files.durable import replace_file
from ftkit.parts.metric import Array
from ftkit.uncertainty.reference_outputs import POINTS

FILE = "features.safetensors"
NEIGHBOUR = 10
MOST_IMAGES, MOST_VALUES = 2000, 4_000_000
"""Training images, and values of all of their features, which are two bytes each."""
BLOCK = 1024
"""Images that are compared with the training images at a time."""


@dataclass(frozen=True, eq=False)
class FeatureReference:
    """Features of training images, and the distribution of the novelty of the reference images.

    Attributes:
        features: Of training images, with a norm of 1, float16 `(n, d)`.
        centre, spread: Mean and standard deviation of energy and distance over the reference images, float64 `(2,)`.
        values: The sums for the reference images at equally spaced ranks, ascending, float64.
        images: Number of reference images, int64 `()`.
    """

    features: Tensor
    centre: Tensor
    spread: Tensor
    values: Tensor
    images: Tensor

    @cached_property
    def _known(self) -> Tensor:
        """The features in float32, which are compared with each batch."""
        return self.features.float()

    def sums(self, energy: Array, distance: Array) -> Array:
        """Energy and distance in standard deviations, summed, `(n,)`."""
        found: Array = ((np.stack([energy, distance], 1) - self.centre.numpy()) / self.spread.numpy()).sum(axis=1)
        return found

    def distances(self, features: Tensor, itself: bool = False) -> Array:
        """The distance of each image, float64 `(b,)`.

        Args:
            features: `(b, d)`.
            itself: Whether the images are those of the reference; each is then left out for itself.
        """
        known, found = self._known, list[Tensor]()
        for part in torch.split(normalised(features), BLOCK):
            nearest = (part @ known.T).topk(min(NEIGHBOUR + itself, len(known)), dim=1).values
            found.append(1 - nearest[:, -1])
        return torch.cat(found).double().numpy()


def normalised(features: Tensor) -> Tensor:
    """Features divided by their norm, float32."""
    values: Tensor = torch.nn.functional.normalize(features.float(), dim=1)
    return values


def most_images(width: int) -> int:
    """Number of training images to keep of features of this width."""
    return max(NEIGHBOUR + 1, min(MOST_IMAGES, MOST_VALUES // max(1, width)))


def make_reference(features: Tensor, energy: Array, others: Tensor | None) -> FeatureReference:
    """The reference of a model.

    Args:
        features: Of training images, `(n, d)`.
        energy: Of the reference images, `(m,)`.
        others: Features of the reference images, `(m, d)`; None if they are the training images themselves.
    """
    kept = normalised(features).half()
    empty = torch.zeros(2, dtype=torch.float64)
    plain = FeatureReference(kept, empty, empty + 1, torch.zeros(0, dtype=torch.float64), torch.tensor(len(energy)))
    distance = plain.distances(features if others is None else others, itself=others is None)
    both = np.stack([energy, distance], axis=1)
    centre, spread = both.mean(axis=0), np.maximum(both.std(axis=0), 1e-12)
    sums = ((both - centre) / spread).sum(axis=1)
    values = np.quantile(sums, np.linspace(0, 1, POINTS + 1))
    return FeatureReference(
        kept, torch.from_numpy(centre), torch.from_numpy(spread), torch.from_numpy(values), plain.images
    )


def write_reference(folder: Path, identity: str, reference: FeatureReference) -> None:
    """Write the reference beside a model's card.

    Args:
        identity: The card's digest.

    Raises:
        OSError: The folder can't be written.
    """
    tensors = {field.name: getattr(reference, field.name).contiguous() for field in fields(reference)}
    replace_file(folder / FILE, save(tensors, {"model": identity}))


def read_reference(folder: Path, identity: str) -> FeatureReference | None:
    """The reference of a model; None if it has none.

    Raises:
        RequestError: The file is damaged, or belongs to another model.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            if (opened.metadata() or {}).get("model") != identity:
                raise ValueError("it belongs to another model")
            found = FeatureReference(*(opened.get_tensor(field.name) for field in fields(FeatureReference)))
    except (OSError, ValueError, SafetensorError) as error:
        raise RequestError(
            f"{file} can't be used: {error}", "remove it: --novelty then uses the energy alone"
        ) from None
    return found
