"""How unlike the training images an image is, by the outputs of the model; and whether many images are.

The energy of an image is the negative logarithm of the sum of the exponentials of its logits, which is high where no
class fits (Liu, Wang, Owens and Li, Energy-based Out-of-distribution Detection, 2020). With several labels per image it
is the negative sum over the classes of log(1 + exp(logit)) (Wang, Liu, Bocchieri and Li, 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ftkit.metrics.multiclass_outputs import MulticlassOutputs
from ftkit.metrics.outputs import Outputs
from ftkit.parts.metric import Array
from ftkit.uncertainty.reference_outputs import POINTS, ReferenceOutputs

LEAST_IMAGES = 50
"""Fewer images are no reference."""


def energies(logits: Tensor, exclusive: bool) -> Tensor:
    """The energy of each image, float64 `(n,)`.

    Args:
        logits: `(n, classes)`.
        exclusive: Whether an image has one class.
    """
    values = logits.double()
    return -(values.logsumexp(dim=1) if exclusive else torch.nn.functional.softplus(values).sum(dim=1))


def reference_outputs(outputs: Outputs, source: str) -> ReferenceOutputs | None:
    """What a card keeps of outputs; None for too few images, and where outputs are not finite.

    Args:
        outputs: Calibrated ones.
        source: What the images are.
    """
    if len(outputs) < LEAST_IMAGES or not outputs.finite.all():
        return None
    exclusive = isinstance(outputs, MulticlassOutputs)
    found = np.quantile(energies(outputs.logits, exclusive).numpy(), np.linspace(0, 1, POINTS + 1))
    accuracy, threshold = float(outputs.right.mean()), 0.0
    if isinstance(outputs, MulticlassOutputs):
        threshold = float(np.quantile(outputs.confidence, 1 - accuracy))
    return ReferenceOutputs(source, len(outputs), tuple(found.tolist()), accuracy, threshold)


def novelties(found: Array, values: Sequence[float], images: int) -> Array:
    """Part of the reference images with a value at least as high, `(n,)`, interpolated; 1 over them for the highest.

    For images like the reference images it is uniform between 0 and 1, so that flagging those below a rate flags that
    part of them.

    Args:
        found: Energies, or other values that are higher for less familiar images, `(n,)`.
        values: Those of the reference images at equally spaced ranks, ascending.
        images: Number of reference images.
    """
    ranks = np.interp(found, values, np.linspace(0, 1, len(values)))
    above: Array = (1 - ranks).clip(1 / (images + 1), 1)
    return above


@dataclass(frozen=True)
class Shift:
    """Images compared with the reference images of a model.

    Attributes:
        images: Number of images.
        distance: The Kolmogorov-Smirnov distance between the distributions of the energies, from 0 to 1.
        p: The probability of such a distance without a shift.
        unlike: Part of the images flagged as unlike the reference images; without a shift it is `rate`.
        accuracy: The estimated accuracy: the part of the images whose confidence is at least the threshold below which
            the reference images have as many images as wrong predictions (ATC; Garg et al., Leveraging Unlabeled Data
            to Predict Out-of-Distribution Performance, 2022).
            It is None where an image may have several labels.
        mean_confidence: The mean probability of the predicted classes, another estimate of the accuracy, which was too
            high where that one was too low.
        reference_accuracy: Of the reference images.
    """

    images: int
    distance: float
    p: float
    unlike: float
    rate: float
    accuracy: float | None
    mean_confidence: float | None
    reference_accuracy: float


def measure_shift(novelty: Array, confidence: Array | None, reference: ReferenceOutputs, rate: float) -> Shift:
    """Compare images with the reference images.

    Args:
        novelty: Of the images, `(n,)`.
        confidence: The probability of each one's predicted class, `(n,)`; None for no estimate of the accuracy.
        rate: Part of the reference images that are flagged.
    """
    from scipy.stats import kstwo

    ordered, count = np.sort(novelty), len(novelty)
    steps = np.arange(1, count + 1) / count
    distance = float(max((steps - ordered).max(), (ordered - (steps - 1 / count)).max()))
    effective = max(1, round(count * reference.images / (count + reference.images)))
    return Shift(
        images=count,
        distance=distance,
        p=float(kstwo.sf(distance, effective)),
        unlike=float((novelty <= rate).mean()),
        rate=rate,
        accuracy=None if confidence is None else float((confidence >= reference.threshold).mean()),
        mean_confidence=None if confidence is None else float(confidence.mean()),
        reference_accuracy=reference.accuracy,
    )
