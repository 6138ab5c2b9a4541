"""A network's outputs together with what its head takes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

from torch import Tensor, nn

from ftkit.inference.classifier import Classifier, backbone_network
from ftkit.models.bundle import Loaded

WithFeatures: TypeAlias = "Callable[[Tensor], tuple[Tensor, Tensor]]"
"""Returns the logits of images, `(b, classes)`, and what the head takes, `(b, ...)`."""


@contextmanager
def with_features(network: Callable[[Tensor], Tensor], head: nn.Module) -> Iterator[WithFeatures]:
    """The network as a function that also returns what its head takes; safe with threads.

    Args:
        head: A module that the network calls once for each batch.
    """
    seen = threading.local()

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.features = inputs[0].detach()

    def call(images: Tensor) -> tuple[Tensor, Tensor]:
        logits = network(images)
        return logits, seen.features[: len(logits)]

    hook = head.register_forward_pre_hook(keep)
    try:
        yield call
    finally:
        hook.remove()


def classifier_with_features(loaded: Loaded, classifier: Classifier) -> AbstractContextManager[WithFeatures]:
    """The classifier of a single network as a function that also returns what its head takes."""
    return with_features(classifier, head_of(loaded, classifier.networks[0].network))


def head_of(loaded: Loaded, network: nn.Module) -> nn.Module:
    """The first layer of the head in a network of a model that is a single one."""
    assert loaded.backbone is not None, "of a single network"
    return backbone_network(network).get_submodule(loaded.backbone.head[0])


def flat_features(features: Tensor) -> Tensor:
    """Features as float32 `(b, d)`, means over the positions of maps."""
    flat = features.float()
    return flat.flatten(2).mean(dim=2) if flat.ndim > 2 else flat
