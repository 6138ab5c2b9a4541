"""Matches the classes of a pretrained head to those of the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftkit.errors import RequestError

if TYPE_CHECKING:
    from ftkit.planning.weight_source import WeightSource


def head_class_order(weights: WeightSource, classes: Sequence[str]) -> tuple[int, ...] | None:
    """For each class, its index among the outputs of the pretrained head; None where its classes aren't known.

    Raises:
        RequestError: The head is for other classes.
    """
    if weights.classes is None:
        return None
    return class_places(
        weights.classes,
        classes,
        f"keep_head is set, but the head of {weights.name} is",
        "drop --keep-head to train a new head, or rename classes with label_map",
    )


def class_places(there: Sequence[str], classes: Sequence[str], what: str, hint: str) -> tuple[int, ...]:
    """For each class, its index among the outputs of a model.

    Args:
        there: The model's classes in output order.
        what: The beginning of the message, such as "the head is".

    Raises:
        RequestError: The model is for other classes.
    """
    places = {name: place for place, name in enumerate(there)}
    strange = [name for name in classes if name not in places]
    lacking = [name for name in there if name not in set(classes)]
    if strange or lacking:
        parts = [f"{which} {_few(names)}" for which, names in (("lacks", strange), ("has", lacking)) if names]
        raise RequestError(f"{what} for other classes: it {' and '.join(parts)}", hint)
    return tuple(places[name] for name in classes)


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:4]))
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown
