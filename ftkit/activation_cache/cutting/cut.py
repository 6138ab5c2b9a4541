"""A network in two parts, and how it is proved that they compute what the network does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ftkit.errors import one_line
from ftkit.models.logits import split_outputs

RANDOM = (
    "dropout",
    "drop_path",
    "stochastic_depth",
    "stochasticdepth",
    "rand",
    "bernoulli",
    "multinomial",
    "normal",
    "exponential",
)
"""Parts of the names of functions that draw random numbers, unless they are called with `training=False`."""


class NoCutError(Exception):
    """The network can't be cut; the message is the reason."""


@dataclass(frozen=True)
class Cut:
    """A network in two parts.

    Attributes:
        name: The network's name for the last layer before the cut.
        depth: Position in evaluation; the activations at a deeper cut are computed through the others.
        train_suffix: The part from the cut to the outputs, in training.
        eval_suffix: The part from the cut to the outputs, in evaluation.
        shape: The shape of one image's activations at the cut.
        dtype: The dtype of these activations.
    """

    name: str
    depth: int
    train_suffix: nn.Module
    eval_suffix: nn.Module
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of one image's activations."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@contextmanager
def faults(what: str) -> Iterator[None]:
    """Turns any error into a reason why there is no cut.

    The network's own code runs here on proxies of tensors, in parts and in other modes than it was written for, and may
    raise anything. The run then trains uncached and reports the reason.
    """
    try:
        yield
    except NoCutError:
        raise
    except Exception as error:
        text = one_line(" ".join(str(error).split())[:200])
        raise NoCutError(f"{what}: {type(error).__name__}{': ' if text else ''}{text}") from error


def is_fixed(module: nn.Module) -> bool:
    """Whether the output of a module is fixed where its inputs are, in the current modes."""
    if any(parameter.requires_grad for parameter in module.parameters()):
        return False
    return not any(part.training and _differs_in_training(part) for part in module.modules())


def _differs_in_training(module: nn.Module) -> bool:
    """Whether a module may compute something else in training: it updates statistics, or draws random numbers."""
    own = (
        next(module.buffers(recurse=False), None) is not None
        or next(module.parameters(recurse=False), None) is not None
    )
    rate = getattr(module, "p", getattr(module, "drop_prob", None))
    return own or (rate != 0 and any(word in type(module).__name__.lower() for word in ("drop", *RANDOM)))


def seeded(module: nn.Module, value: Any) -> list[Tensor]:
    """A module's outputs with the random numbers of a fixed seed."""
    torch.manual_seed(0)
    logits, auxiliary = split_outputs(module(value))
    return [logits, *auxiliary]


def same(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether the values are equal bit for bit; NaN equals NaN."""
    pairs = zip(ones, others, strict=False)
    return len(ones) == len(others) and all(
        one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True) for one, other in pairs
    )
