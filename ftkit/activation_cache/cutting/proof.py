"""Whether the two parts of a replayed network compute what the network does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ftkit.activation_cache.cutting.cut import NoCutError, same, seeded

ROUNDING = 0.05
"""Largest difference of an image's activations in batches of other images, relative to their norm."""
FILLS = (math.nan, 0.0, 1.0)
"""Values in place of what isn't given; 0 is that of the finished suffix."""


def trial_images(sample: Tensor) -> list[Tensor]:
    """Two batches of images: the sample's, and these with one more that differs much from them."""
    return [sample, torch.cat([sample, -3 * sample[:1].flip(-1)])]


@dataclass(frozen=True)
class Prover:
    """Tries parts of a network on images.

    Attributes:
        trials: As `trial_images` returns them.
        autocast: Returns the context that the network computes in.
    """

    network: nn.Module
    trials: Sequence[Tensor]
    autocast: Callable[[], Any]

    def rows(self, name: str, prefix: nn.Module, training: bool) -> list[Tensor]:
        """The activations of each batch of trial images.

        Args:
            training: Parameters that require a gradient train.

        Raises:
            NoCutError: Those of an image depend on the other images, or on parameters that train.
        """
        self.network.eval()
        with torch.no_grad():
            first, second = (self._computed(prefix, images) for images in self.trials)
            if not first.shape == second[: len(first)].shape or _differ(first, second[: len(first)]):
                raise NoCutError(f"the output of {name} for an image varies with other images or from pass to pass")
            trainable = [parameter for parameter in self.network.parameters() if training and parameter.requires_grad]
            with poisoned(trainable):
                if not same([first], [self._computed(prefix, self.trials[0])]):
                    raise NoCutError(f"the output of {name} depends on layers that train")
        return [first, second]

    def suffix(self, name: str, rows: Sequence[Tensor], make: Callable[[float, bool], nn.Module]) -> nn.Module:
        """A suffix that computes from the rows what the network computes, in its current modes.

        Args:
            make: Makes a suffix, given the value in place of what isn't given, and whether it is allocated in full.

        Raises:
            NoCutError: It doesn't.
        """
        with torch.no_grad(), self.autocast():
            whole = [seeded(self.network, images) for images in self.trials]
            try:
                self._require_same(name, rows, whole, make, dense=False)
                return make(0.0, False)
            except (RuntimeError, NotImplementedError):
                # Code that changes values in place needs tensors that are allocated in full.
                self._require_same(name, rows, whole, make, dense=True)
                return make(0.0, True)

    def same_gradients(self, name: str, rows: Tensor, suffix: nn.Module) -> None:
        """Whether the parameters that train get the gradients that they get from the whole network.

        Raises:
            NoCutError: They don't.
        """
        trainable = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        whole = self._gradients(self.network, self.trials[0], trainable)
        parts = self._gradients(suffix, rows.clone(), trainable)
        scale = sum(float(one.norm()) for one in whole if one is not None)
        for one, other in zip(whole, parts, strict=True):
            if (one is None) != (other is None):
                raise NoCutError(f"with a cut after {name} other layers get a gradient")
            if one is not None and other is not None:
                _require_close(name, one, other, 1e-4 * scale)

    def unaffecting(self, prefix: nn.Module, groups: Iterable[dict[str, nn.Parameter]]) -> Iterator[str]:
        """Names of the parameters that the activations don't depend on, of some that are tried together."""
        self.network.eval()
        with torch.no_grad():
            before = self._computed(prefix, self.trials[0])
            for group in groups:
                with poisoned(list(group.values())):
                    if same([before], [self._computed(prefix, self.trials[0])]):
                        yield from group

    def _computed(self, prefix: nn.Module, images: Tensor) -> Tensor:
        with self.autocast():
            (rows,) = prefix(images)
        return torch.as_tensor(rows)

    def _require_same(
        self,
        name: str,
        rows: Sequence[Tensor],
        whole: Sequence[list[Tensor]],
        make: Callable[[float, bool], nn.Module],
        dense: bool,
    ) -> None:
        for fill in FILLS:
            suffix = make(fill, dense)
            for values, expected in zip(rows, whole, strict=True):
                if not same(expected, seeded(suffix, values.clone())):
                    raise NoCutError(f"after {name} the network uses more than its output")

    def _gradients(self, module: nn.Module, value: Tensor, trainable: list[nn.Parameter]) -> list[Tensor | None]:
        with torch.enable_grad():
            with self.autocast():
                total = torch.stack([output.sum() for output in seeded(module, value)]).sum()
            return list(torch.autograd.grad(total, trainable, allow_unused=True)) if trainable else []


@contextmanager
def poisoned(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Parameters are NaN for a while."""
    before = [parameter.data for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.data = torch.full_like(parameter.data, math.nan)
        yield
    finally:
        for parameter, data in zip(parameters, before, strict=True):
            parameter.data = data


def _differ(ones: Tensor, others: Tensor) -> bool:
    """Whether a row differs by more than rounding."""
    before, after = (torch.nan_to_num(values.double()).flatten(1) for values in (ones, others))
    return bool(((before - after).norm(dim=1) > ROUNDING * after.norm(dim=1).clamp_min(1e-12)).any())


def _require_close(name: str, one: Tensor, other: Tensor, least: float) -> None:
    if bool((one - other).norm() > ROUNDING * one.norm() + least):
        raise NoCutError(f"with a cut after {name} gradients differ")
