"""Distillation: a loss against the outputs of a trained model, the teacher (Hinton et al., 2015)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F  # noqa: N812

from ftkit.models.bundle import load_bundle
from ftkit.models.compute.devices import Compute
from ftkit.models.logits import split_outputs
from ftkit.parts.task import Task
from ftkit.transforms.device_operations import GREY, constants
from ftkit.transforms.preprocessing import Preprocessing

if TYPE_CHECKING:
    from ftkit.planning.run_plan import Plan


@dataclass(frozen=True)
class Distillation:
    """The loss of a batch with a teacher.

    Attributes:
        network: The teacher, in eval mode, on its device.
        places: For each class of the run, its index among the teacher's outputs, int64 `(classes,)`.
        seen: The preprocessing of the batch's images; `wanted`: that of the teacher.
        weight: Of the loss against the teacher, above 0 to 1.
        temperature: Divides the logits of both.
    """

    network: nn.Module
    compute: Compute
    places: Tensor
    task: Task
    seen: Preprocessing
    wanted: Preprocessing
    weight: float
    temperature: float

    def mixed(self, loss: Tensor, logits: Tensor, images: Tensor) -> Tensor:
        """The sum over a batch of the loss with the labels and of that against the teacher, weighted.

        The latter is the task's plain loss with the teacher's probabilities as targets, times the square of the
        temperature, which divides the gradient. For one class per image that is the Kullback-Leibler divergence from
        the teacher, plus its entropy, on which no gradient depends.

        Args:
            loss: The sum of the losses with the labels.
            logits: Of the network, `(b, classes)`.
            images: What the network saw, `(b, channels, size, size)`.
        """
        targets = self.task.scores(self.logits(images) / self.temperature)
        taught = self.task.plain_loss(logits.float() / self.temperature, targets) * self.temperature**2
        return (1 - self.weight) * loss + self.weight * taught

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """The teacher's logits of the same images, float32 `(b, classes)`, in the order of the run's classes."""
        with self.compute.autocast():
            outputs, _ = split_outputs(self.network(self.compute.to_device(self._converted(images))))
        return outputs.float()[:, self.places]

    def _converted(self, images: Tensor) -> Tensor:
        """Images as the teacher expects them: in its channels, size and normalization."""
        if self.seen == self.wanted:
            return images
        pixels = images * _of(self.seen.std, images) + _of(self.seen.mean, images)
        if self.seen.channels > self.wanted.channels:
            pixels = (pixels * _of(GREY, images)).sum(1, keepdim=True)
        elif self.seen.channels < self.wanted.channels:
            pixels = pixels.expand(-1, self.wanted.channels, -1, -1)
        if self.seen.size != self.wanted.size:
            pixels = F.resize(pixels, [self.wanted.size, self.wanted.size], antialias=True)
        return (pixels - _of(self.wanted.mean, images)) / _of(self.wanted.std, images)


def make_distillation(plan: Plan, compute: Compute, precision: str) -> Distillation | None:
    """The loss with the teacher of a plan; None without one.

    Args:
        precision: That the teacher computes in.

    Raises:
        RequestError: The teacher's model can't be loaded.
    """
    if plan.teacher is None:
        return None
    options = plan.config.distillation
    loaded = load_bundle(plan.teacher.folder, compute.device.type, precision, plan.resolved.registry)
    places = torch.tensor(plan.teacher.places, device=compute.device)
    return Distillation(
        network=loaded.model.requires_grad_(False),
        compute=replace(loaded.compute, device=compute.device),
        places=places,
        task=plan.task,
        seen=replace(plan.preprocessing, value_range=None),
        wanted=replace(loaded.card.preprocessing, value_range=None),
        weight=options.weight,
        temperature=options.temperature,
    )


def _of(values: tuple[float, ...], like: Tensor) -> Tensor:
    return constants(values, like.device)
