"""Weights between two states of one network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor


def interpolate(first: Mapping[str, Tensor], last: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The state dict at `share` of the way from `first` to `last`; integers such as step counts are those of `last`.

    Weights of a network that was fine-tuned from `first` usually lie in one basin with it, so that points between
    both are good models too, and often better than either (WiSE-FT, Wortsman et al., 2022).

    Args:
        share: 0 gives `first`, 1 gives `last`.
    """
    return {
        name: first[name].lerp(tensor, share) if tensor.is_floating_point() else tensor.clone()
        for name, tensor in last.items()
    }


def average(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of state dicts of one network, accumulated in float64; integers are those of the first.

    Models that were trained from the same initial weights can be averaged (model soups, Wortsman et al., 2022).

    Args:
        states: At least one. They are taken one after another, so that not all of them need be in memory.
    """
    rest = iter(states)
    first, count = dict(next(rest)), 1
    sums = {name: tensor.double() for name, tensor in first.items() if tensor.is_floating_point()}
    for state in rest:
        count += 1
        for name, total in sums.items():
            sums[name] = total + state[name].double()
    return {
        name: sums[name].div(count).to(tensor.dtype) if name in sums else tensor.clone()
        for name, tensor in first.items()
    }
