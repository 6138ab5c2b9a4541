"""How often the prediction sets of a model hold the true class of labelled images, and how large they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ftkit.inference.uncertain_predictions import UncertaintyRule
from ftkit.metrics.bootstrap import wilson
from ftkit.metrics.multiclass_outputs import MulticlassOutputs
from ftkit.uncertainty.conformal_scores import set_members
from ftkit.uncertainty.set_methods import SetMethod

BLOCK = 2**22
"""Probabilities that are held at a time."""


@dataclass(frozen=True)
class SetCoverage:
    """The prediction sets of labelled images.

    Attributes:
        wanted: The coverage that was asked for.
        coverage: Part of the images whose set holds the true class; `interval` is its Wilson interval.
        mean_size: Mean number of classes in a set.
        sizes: Part of the images with a set of each size, by size.
        lowest_class: The class with the lowest coverage of its images, with that coverage.
    """

    method: SetMethod
    by_class: bool
    wanted: float
    coverage: float
    interval: tuple[float, float]
    mean_size: float
    sizes: tuple[tuple[int, float], ...]
    lowest_class: tuple[str, float]


def set_coverage(outputs: MulticlassOutputs, rule: UncertaintyRule, wanted: float) -> SetCoverage:
    """The sets of a rule on outputs that are finite for each image."""
    assert rule.limits is not None, "coverage was asked for"
    count, classes = len(outputs), len(outputs.classes)
    held, sizes = np.empty(count, dtype=bool), np.empty(count, dtype=np.int64)
    size = max(1, BLOCK // classes)
    for start in range(0, count, size):
        part = slice(start, start + size)
        probabilities = outputs.logits[part].double().softmax(dim=1).numpy()
        members = set_members(probabilities, rule.method, rule.limits)
        held[part] = members[np.arange(len(members)), outputs.targets[part]]
        sizes[part] = members.sum(axis=1)
    support = np.bincount(outputs.targets, minlength=classes)
    by_class = np.bincount(outputs.targets, held, minlength=classes) / np.maximum(support, 1)
    lowest = int(np.where(support > 0, by_class, np.inf).argmin())
    bounds = wilson(int(held.sum()), count)
    assert bounds.low is not None
    assert bounds.high is not None
    known, counts = np.unique(sizes, return_counts=True)
    return SetCoverage(
        method=rule.method,
        by_class=isinstance(rule.limits, np.ndarray),
        wanted=wanted,
        coverage=float(held.mean()),
        interval=(bounds.low, bounds.high),
        mean_size=float(sizes.mean()),
        sizes=tuple(zip(known.tolist(), (counts / count).tolist(), strict=True)),
        lowest_class=(outputs.classes[lowest], float(by_class[lowest])),
    )
