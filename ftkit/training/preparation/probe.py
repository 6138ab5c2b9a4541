"""The probe: the head solved to its optimum on frozen features, before anything else moves.

A head drawn at random sends random gradients through a pretrained network and damages it. A solved one is
the best that the features can do as they are, so it is the start of the training and the floor of the run.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ftkit.data.loading import loader
from ftkit.data.loading.seeds import derive
from ftkit.distributed.processes import broadcast_tensor
from ftkit.errors import RequestError
from ftkit.evaluation.collect import CheckBatch, OnBatch, collect_outputs, evaluation_shard
from ftkit.metrics.finite_outputs import require_features
from ftkit.parts.task import HeadFit

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ftkit.activation_cache.feed import Feed
    from ftkit.models.compute.devices import Compute
    from ftkit.training.session import Session


class NoProbeError(RequestError):
    """The network's head can't be solved by itself."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "give --no-probe, or a backbone with one linear layer as its head")


def probe_head(session: Session, feed: Feed, on_batch: OnBatch | None = None) -> HeadFit:
    """Solve the head on the training images as they are, and put the solution into the network.

    Every process computes the features of its share; the main one solves, and all take its fit.

    Args:
        feed: The feed of cached activations, where the probe uses them.
        on_batch: Called after each batch of features.

    Raises:
        NoProbeError: The network's head isn't a linear layer on features.
        FtkitError: Features aren't finite; in every process, so that none waits for another.
    """
    layer = head_layer(session.network, session.plan.backbone.head[0])
    features, labels = training_features(session, feed, layer, on_batch)
    require_features(features, session.split("train").names)
    classes, balanced = session.plan.num_classes, session.plan.config.balance != "none"
    seed = derive(session.plan.config.seed, "probe") % 2**32
    fit = HeadFit(torch.zeros(classes, layer.in_features), torch.zeros(classes), 0.0)
    if session.is_main:
        fit = session.plan.task.fit_head(
            features, labels, classes, intercept=layer.bias is not None, balanced=balanced, seed=seed
        )
    with torch.no_grad():
        layer.weight.copy_(broadcast_tensor(fit.weight.to(session.device)))
        if layer.bias is not None:
            layer.bias.copy_(broadcast_tensor(fit.bias.to(session.device)))
    return fit


def head_layer(network: nn.Module, name: str) -> nn.Linear:
    """The layer that the probe solves; dropout may stand before it.

    Raises:
        NoProbeError: It isn't linear.
    """
    layer = network.get_submodule(name)
    if isinstance(layer, nn.Sequential):
        layer = layer[-1]
    if not isinstance(layer, nn.Linear):
        raise NoProbeError(f"the head, {name}, is not a linear layer")
    return layer


def training_features(
    session: Session, feed: Feed, layer: nn.Linear, on_batch: OnBatch | None = None
) -> tuple[Tensor, Tensor]:
    """What the head sees of each training image, float32 `(n, features)`, and the labels `(n,)`."""
    accelerator = session.accelerator
    skip = partial(session.unreadable.readable, "train")
    if feed is not session.uncached:
        loader = feed.train_loader
        return head_inputs(feed.eval_model, layer, loader, accelerator, session.compute, on_batch, skip)
    loader = evaluation_shard(session.plan, session.split("train"), session.workers, accelerator)
    return head_inputs(session.network, layer, loader, accelerator, session.compute, on_batch, skip)


def head_inputs(
    network: nn.Module,
    layer: nn.Linear,
    loader: Iterable[Any],
    accelerator: Accelerator,
    compute: Compute,
    on_batch: OnBatch | None = None,
    skip_unreadable: CheckBatch = loader.require_readable,
) -> tuple[Tensor, Tensor]:
    """What a layer at the network's end sees of each image, float32 `(n, features)`, and the labels `(n,)`.

    Args:
        loader: This process's share of the images; every process gets all of the result.

    Raises:
        NoProbeError: The network does more with the layer's output than return it.
    """
    return collect_outputs(_Features(network, layer), loader, accelerator, compute, on_batch, skip_unreadable)


class _Features(nn.Module):
    """The network up to its head: returns the head's input instead of its output."""

    def __init__(self, network: nn.Module, layer: nn.Linear) -> None:
        super().__init__()
        self.network = network
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        seen: list[tuple[Tensor, Tensor]] = []
        hook = self.layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
        try:
            logits = self.network(images)
        finally:
            hook.remove()
        if len(seen) != 1 or seen[0][0].ndim != 2 or not _same(seen[0][1], logits):
            raise NoProbeError("the network does more with its head's output than return it")
        return seen[0][0]


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether all values are equal; NaN counts as equal to itself, and is reported elsewhere."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
