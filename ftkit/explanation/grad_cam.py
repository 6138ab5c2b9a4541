"""Class activation maps: which parts of an image raise the score of a class.

For a feature map this is Grad-CAM (Selvaraju et al., 2017) in the form of Draelos and Carin (2020, HiResCAM): the
activations of the target layer times the gradient of the class's logit, summed over the channels, without negative
values. Where average pooling follows the layer, the gradient is the same at all places, so that both are equal.
Otherwise Grad-CAM, which takes the mean of the gradient over the places, can show places that the class doesn't depend
on. For tokens with attention between them it is gradient-weighted attention, `explanation.attention`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ftkit.explanation.attention import AttentionRecorder, of_tokens, relevance
from ftkit.explanation.target_layer import TargetLayer, map_first


@dataclass(frozen=True)
class ExplainedNetwork:
    """A network and the layer that explains its outputs.

    Attributes:
        network: Returns logits.
        inner: The network that the layer's name is of: the same, or one within it.
    """

    network: nn.Module
    inner: nn.Module
    layer: TargetLayer


class _Seen(threading.local):
    """The activations of a pass of this thread."""

    recording = False
    activations: Tensor | None = None

    def begin(self) -> None:
        self.recording, self.activations = True, None

    def end(self) -> Tensor | None:
        """The activations that were seen."""
        found, self.recording, self.activations = self.activations, False, None
        return found


@dataclass(frozen=True)
class Pass:
    """A forward pass.

    Attributes:
        logits: `(b, classes)`.
        activations: Of the target layer, with gradients from the logits.
        attention: The attention between all tokens, by block; empty where the layer isn't `attended`.
    """

    logits: Tensor
    activations: Tensor
    attention: tuple[Tensor, ...] = ()


class Recorder:
    """Computes logits and keeps what their gradients need, in any number of threads."""

    def __init__(self, explained: ExplainedNetwork) -> None:
        self.explained = explained
        self._seen = _Seen()

    @contextmanager
    def attached(self) -> Iterator[Recorder]:
        """The network with the recorder's hook, which does nothing to other passes."""
        module = self.explained.inner.get_submodule(self.explained.layer.name)
        handle = module.register_forward_hook(self._record)
        try:
            yield self
        finally:
            handle.remove()

    def forward(self, images: Tensor) -> Pass:
        """A pass that `maps` can be computed from. Layers before those that it needs are computed without gradients."""
        attention, activations = AttentionRecorder(), None
        self._seen.begin()
        try:
            with torch.no_grad(), attention if self.explained.layer.attended else nullcontext():
                logits = self.explained.network(images)
        finally:
            activations = self._seen.end()
        assert activations is not None, "the layer was called when it was chosen"
        if not self.explained.layer.attended:
            return Pass(logits, activations)
        return Pass(logits, activations, tuple(of_tokens(attention.matrices, len(images), activations.shape[1])))

    def maps(self, found: Pass, classes: Tensor) -> Tensor:
        """Maps float32 `(b, grid, grid)`, 0 or more, of the class at `classes`, int64 `(b,)`, for each image."""
        with torch.enable_grad():
            score = found.logits.gather(1, classes[:, None]).float().sum()
        slopes, *of_attention = torch.autograd.grad(score, [found.activations, *found.attention], allow_unused=True)
        layer, activations = self.explained.layer, found.activations.detach()
        if layer.attended:
            own = (activations.float() * slopes.float()).sum(dim=2)
            own = torch.where(own.relu().any(dim=1, keepdim=True), own.relu(), own.abs())
            own = own / own.sum(dim=1, keepdim=True).clamp(min=torch.finfo().tiny)
            used = [pair for pair in zip(found.attention, of_attention, strict=True) if pair[1] is not None]
            tokens = relevance(used, own)
            return tokens[:, layer.prefix :].reshape(-1, layer.grid, layer.grid)
        values, slopes = (layer.channels_first(each).float() for each in (activations, slopes))
        return (values * slopes).sum(dim=1).relu()

    def _record(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        return map_first(output, self._kept) if self._seen.recording else None

    def _kept(self, output: Tensor) -> Tensor:
        # Ends with the context of `forward`; from here on gradients are needed.
        torch.set_grad_enabled(True)
        kept = output if output.requires_grad else output.detach().requires_grad_()
        self._seen.activations = kept
        # A copy goes on, since the network may change its own values in place.
        return kept.clone()


@contextmanager
def recorders(explained: tuple[ExplainedNetwork, ...]) -> Iterator[tuple[Recorder, ...]]:
    """Recorders of several networks, attached."""
    with ExitStack() as stack:
        yield tuple(stack.enter_context(Recorder(one).attached()) for one in explained)
