"""One range for all images of more than 8 bits of a dataset: the values of black and white."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ftkit.data.images import FULL, Extremes, Range, guessed_range
from ftkit.errors import RequestError

SET = "set dataset.value_range"


@dataclass(frozen=True)
class ChosenRange:
    """The range for all images whose files don't declare one, and notes for the plan.

    Attributes:
        value_range: None for the default, 0 to 65535.
    """

    value_range: Range | None = None
    notes: tuple[str, ...] = ()


def choose_value_range(found: Sequence[Extremes], given: Range | None) -> ChosenRange:
    """Choose the range.

    Args:
        found: Extremes of each image of more than 8 bits that doesn't declare its range.
        given: The setting `dataset.value_range`; None for auto.

    Raises:
        RequestError: With auto, integer and floating-point images need different ranges.
    """
    if not found:
        note = f"dataset.value_range, {_text(given)}, has no effect" if given is not None else ""
        return ChosenRange(given, (f"{note}: no image has more than 8 bits and no range of its own",) if note else ())
    if given is not None:
        beyond = sum(each.low < given[0] or each.high > given[1] for each in found)
        note = f"{_images(beyond)} with values outside dataset.value_range, {_text(given)}, which are clipped"
        return ChosenRange(given, (note,) if beyond else ())
    whole, fractions = ([each for each in found if each.whole is kind] for kind in (True, False))
    taken = guessed_range(list(whole or fractions))
    if whole and fractions and (taken != FULL or guessed_range(list(fractions)) != FULL):
        raise RequestError(
            f"{_images(len(whole))} of integers and {len(fractions):,} of floating-point numbers don't declare their "
            "range, and no single range fits both",
            "convert the images of one kind to 8 bits",
        )
    verb = "doesn't" if len(found) == 1 else "don't"
    note = (
        f"{_images(len(found))} of more than 8 bits {verb} declare the values of black and white: {_text(taken)} used"
    )
    return ChosenRange(None if taken == FULL and whole else taken, (note + _remark(whole, taken),))


def _remark(whole: Sequence[Extremes], taken: Range) -> str:
    """The end of the note, with a warning if integers read as 16 bits use only a part of the range."""
    most = max((each.high for each in whole), default=0.0)
    bits = max(9, int(most).bit_length())
    if taken != FULL or not most or bits > 15:
        return f"; {SET} to use others"
    dark = ", so they appear almost black" if most < FULL[1] / 16 else ""
    return f", but the maximum is {most:,.0f}{dark}; {SET}=[0, {2**bits - 1}] if they have {bits} bits"


def _text(value_range: Range) -> str:
    return f"{value_range[0]:g} to {value_range[1]:g}"


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"
