"""One rule for all images of a data set of more than 8 bits: which of their values mean black and white."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ftkit.data.images import FULL, Extremes, Range, guessed_range
from ftkit.errors import RequestError

SET = "set dataset.value_range"


@dataclass(frozen=True)
class ChosenRange:
    """The range for all images whose files don't state one, and lines for the plan.

    Attributes:
        value_range: None where the reader's own rule holds for each image: 0 to 65535.
    """

    value_range: Range | None = None
    notes: tuple[str, ...] = ()


def choose_value_range(found: Sequence[Extremes], given: Range | None) -> ChosenRange:
    """Choose the range.

    Args:
        found: Of each image of more than 8 bits that doesn't state its range.
        given: That of `dataset.value_range`; None for auto.

    Raises:
        RequestError: With auto, no one range fits whole numbers and numbers with fractions.
    """
    if not found:
        note = f"dataset.value_range, {_text(given)}, changes no image that was looked at" if given is not None else ""
        return ChosenRange(given, (f"{note}: none has more than 8 bits without saying its range",) if note else ())
    if given is not None:
        beyond = sum(each.low < given[0] or each.high > given[1] for each in found)
        note = f"{_images(beyond)} with values beyond dataset.value_range, {_text(given)}, which are cut off there"
        return ChosenRange(given, (note,) if beyond else ())
    whole, fractions = ([each for each in found if each.whole is kind] for kind in (True, False))
    taken = guessed_range(list(whole or fractions))
    if whole and fractions and (taken != FULL or guessed_range(list(fractions)) != FULL):
        raise RequestError(
            f"{_images(len(whole))} of integers and {len(fractions):,} of floating point numbers don't say which "
            "values are black and white, and no one range fits both",
            "convert those of one kind to 8 bits",
        )
    note = f"{_images(len(found))} of more than 8 bits don't say which values are black and white: {_text(taken)} taken"
    return ChosenRange(None if taken == FULL and whole else taken, (note + _remark(whole, taken),))


def _remark(whole: Sequence[Extremes], taken: Range) -> str:
    """What the greatest value says of whole numbers that were taken for 16 bits."""
    most = max((each.high for each in whole), default=0.0)
    bits = max(9, int(most).bit_length())
    if taken != FULL or not most or bits > 15:
        return f"; {SET} if others are meant"
    dark = ", so that nearly all is black" if most < FULL[1] / 16 else ""
    return f", but none has more than {most:,.0f}{dark}; {SET}=[0, {2**bits - 1}] if they have {bits} bits"


def _text(value_range: Range) -> str:
    return f"{value_range[0]:g} to {value_range[1]:g}"


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"
