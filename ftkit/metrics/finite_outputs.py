"""Checks for outputs and features that are not finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftkit.errors import FtkitError, one_line, plural

if TYPE_CHECKING:
    from torch import Tensor

NOT_FINITE = "the model's outputs are not finite"
"""Why an image has no prediction: its probabilities would not be numbers."""
NAMED = 5
"""Most images that a message names."""


def finite_rows(logits: Tensor) -> Tensor:
    """Whether the softmax of each row of `(n, classes)` logits is finite, bool `(n,)`.

    A class at minus infinity has the probability 0. With NaN anywhere, plus infinity, or minus infinity for all
    classes there are no probabilities.
    """
    # amax passes NaN on; softmax subtracts a finite maximum and can't overflow.
    return logits.amax(dim=1).isfinite()


def require_finite(finite: Tensor, names: Sequence[str], what: str = NOT_FINITE) -> None:
    """Check that the outputs for all images are finite.

    Args:
        finite: Bool `(n,)`.
        names: Names of the images, in that order. With another length, since some were left out, no image is named.

    Raises:
        FtkitError: Gives the number of images with other outputs, and names the first.
    """
    if not finite.all():
        wrong = (~finite).nonzero().flatten().tolist()
        which = f": {few_names(wrong, names)}" if len(names) == len(finite) else ""
        raise FtkitError(
            f"{what} for {len(wrong):,} of {plural(len(finite), 'image')}{which}",
            "try --precision fp32; if it stays, the weights are damaged or the training diverged",
        )


def require_features(features: Tensor, names: Sequence[str]) -> None:
    """Check that the features `(n, features)` of all images are finite; args and errors as in `require_finite`."""
    require_finite(features.isfinite().all(dim=1), names, "the pretrained network's features are not finite")


def few_names(places: Sequence[int], names: Sequence[str]) -> str:
    """Names of the first few images at these positions, for a message."""
    more = f" and {len(places) - NAMED:,} more" if len(places) > NAMED else ""
    return ", ".join(one_line(names[place]) for place in places[:NAMED]) + more
