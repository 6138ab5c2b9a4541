"""Outputs and features that are not finite: found, counted and named."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ftkit.errors import FtkitError, one_line, plural
from ftkit.metrics.names import NOT_FINITE

NAMED = 5
"""Images that a message names."""


def usable_rows(logits: Tensor) -> Tensor:
    """Whether the softmax of each row of `(n, classes)` logits is finite, bool `(n,)`.

    A class at minus infinity has the probability 0, which is sound; NaN anywhere, plus infinity, or minus infinity
    for all classes leaves no probabilities.
    """
    # amax hands NaN on; with a finite maximum, softmax subtracts it and can't overflow.
    return logits.amax(dim=1).isfinite()


def require_usable(usable: Tensor, names: Sequence[str], what: str = NOT_FINITE) -> None:
    """Refuse outputs of which some rows aren't finite.

    Args:
        usable: Bool `(n,)`.
        names: Of the images, in that order; of another length where some were left out, and none is named then.

    Raises:
        FtkitError: Says of how many images, and names the first.
    """
    if not usable.all():
        wrong = (~usable).nonzero().flatten().tolist()
        which = f": {few_names(wrong, names)}" if len(names) == len(usable) else ""
        raise FtkitError(
            f"{what} for {len(wrong):,} of {plural(len(usable), 'image')}{which}",
            "try --precision fp32; if it stays, the weights are damaged or the training diverged",
        )


def require_features(features: Tensor, names: Sequence[str]) -> None:
    """Refuse features `(n, features)` of which some rows aren't finite; args and errors as in `require_usable`."""
    require_usable(features.isfinite().all(dim=1), names, "the pretrained network's features are not finite")


def few_names(places: Sequence[int], names: Sequence[str]) -> str:
    """The first few of the images at these places, by name."""
    more = f" and {len(places) - NAMED:,} more" if len(places) > NAMED else ""
    return ", ".join(one_line(names[place]) for place in places[:NAMED]) + more
