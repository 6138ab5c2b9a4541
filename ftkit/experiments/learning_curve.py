"""Learning curves: a metric by the number of training images, and what more images would give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from torch import Tensor

from ftkit.activation_cache.cache_reader import Note
from ftkit.data.loading.seeds import derive
from ftkit.data.sampling import stratified_sample
from ftkit.errors import RequestError, plural
from ftkit.experiments.power_law import CurvePoints, extrapolate, pooled_spread
from ftkit.experiments.recommend import frozen_features
from ftkit.metrics.bootstrap import RESAMPLES, Interval, resampled
from ftkit.metrics.outputs import Outputs
from ftkit.metrics.report import metric_value
from ftkit.parts.dataset import Split
from ftkit.parts.label_sets import Labels
from ftkit.parts.metric import Array, Metric
from ftkit.parts.task import Task
from ftkit.planning.run_plan import Plan

SIZES = 5
SMALLEST = 16
"""The smallest sample has this part of the images."""
MOST_IMAGES = 10_000
"""Most training images; fits of more take long."""
PER_CLASS = 2
"""Fewest images for each class in the smallest sample, on average."""
HELD_OUT = 0.2
"""The share of the training images that is evaluated where there are no validation images."""


@dataclass(frozen=True)
class Expected:
    """What a number of training images gives: the metric, and its 95 % interval."""

    images: int
    value: float
    interval: Interval


@dataclass(frozen=True)
class LearningCurve:
    """A metric by the number of training images.

    Attributes:
        metric: Name of the metric: the task's `monitor`.
        label: What it is called.
        images: Training images that there are.
        evaluated: Images that it is measured on.
        measured: Each number of images with the metric of each sample.
        expected: Of more images.
        sampled: Whether the largest sample has fewer images than there are.
        fine_tuned: Whether a network was fine-tuned on each sample; otherwise a probe was fitted.
    """

    metric: str
    label: str
    images: int
    evaluated: int
    measured: tuple[tuple[int, tuple[float, ...]], ...]
    expected: tuple[Expected, ...]
    sampled: bool = False
    fine_tuned: bool = False


@dataclass(frozen=True)
class Samples:
    """What samples of the training images give.

    Attributes:
        images: Training images to sample from.
        classes: Number of classes.
        evaluated: Number of images that are evaluated.
        outputs: Takes a number of images and a seed, trains a model on such a sample, and returns its outputs for the
            evaluated images.
    """

    images: int
    classes: int
    evaluated: int
    outputs: Callable[[int, int], Outputs]


@dataclass(frozen=True)
class Pool:
    """Features and labels to sample training images from, or to evaluate on.

    Attributes:
        features: float32 `(n, features)`.
        targets: The result of `Task.targets`.
        labels: The same as the split has them.
    """

    features: Tensor
    targets: Tensor
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


def measure_probe_curve(plan: Plan, repeats: int, wanted: Sequence[int], tell: Note) -> LearningCurve:
    """Fit probes on samples of the training images, and extrapolate.

    Args:
        repeats: Samples of each size but the largest, which has all images.
        wanted: Numbers of training images to extrapolate to; empty for twice and four times as many.
        tell: Called with a line before a step that takes long.

    Raises:
        RequestError: The data is too small, the head isn't linear, or a number is no more than the images there are.
    """
    train = require_more(plan, wanted)
    kept = min(len(train), MOST_IMAGES)
    chosen = train if kept == len(train) else train.subset(stratified_sample(train.labels, kept, plan.config.seed))
    held = plan.splits.val
    if held is None or not len(held):
        places = stratified_sample(chosen.labels, max(round(HELD_OUT * kept), plan.num_classes), plan.config.seed + 1)
        out = set(places)
        held, chosen = chosen.subset(places), chosen.subset([place for place in range(kept) if place not in out])
    tell(f"measuring the features of {plan.backbone.name} on {plural(len(chosen) + len(held), 'image')}")
    pools = []
    for split in (chosen, held):
        found = frozen_features(plan, split, tell)
        pools.append(Pool(found.values, found.targets, split.labels))
    outputs = partial(_probe_outputs, plan.task, plan.splits.classes, (pools[0], pools[1]))
    samples = Samples(len(chosen), plan.num_classes, len(held), outputs)
    curve = learning_curve(plan, samples, repeats, wanted)
    return replace(curve, images=len(train), sampled=kept < len(train))


def require_more(plan: Plan, wanted: Sequence[int]) -> Split:
    """The training images.

    Raises:
        RequestError: A number to extrapolate to is no more than there are.
    """
    train = plan.splits.train
    assert train is not None, "make_plan refuses data without a training split"
    for number in wanted:
        if number <= len(train):
            raise RequestError(f"--at {number}: there are {len(train):,} training images", "give a larger number")
    return train


def learning_curve(plan: Plan, samples: Samples, repeats: int, wanted: Sequence[int]) -> LearningCurve:
    """The learning curve of models that are trained on samples; args as `measure_probe_curve`.

    Raises:
        RequestError: There are too few images.
    """
    name, seed = plan.task.monitor, derive(plan.config.seed, "learning curve") % 2**32
    how: Metric = plan.resolved.registry.metrics.get(name)()
    sizes, fits, values = sample_sizes(samples.images, samples.classes), list[Array](), list[list[float]]()
    for size in sizes:
        rounds = [seed + number for number in range(repeats)] if size < samples.images else [seed]
        outputs = [samples.outputs(size, each) for each in rounds]
        values.append([_value(how, name, one) for one in outputs])
        fits.append(np.mean([resampled(one, {name: how}, resamples=RESAMPLES)[name] for one in outputs], axis=0))
    # An error is what a metric lacks to 1, or the metric itself where lower is better.
    top, sign = (0.0, 1.0) if how.lower_is_better else (1.0, -1.0)
    errors = top + sign * np.stack(fits, axis=1)
    spread = pooled_spread(np.array(sizes), [[top + sign * value for value in each] for each in values])
    points = CurvePoints(np.array(sizes), errors, spread, np.array([len(each) for each in values]))
    numbers = list(wanted) or [2 * samples.images, 4 * samples.images]
    expected = [
        Expected(number, top + sign * middle, _turned(bounds, how.lower_is_better))
        for number, (middle, bounds) in zip(numbers, extrapolate(points, numbers, seed), strict=True)
    ]
    measured = tuple((size, tuple(each)) for size, each in zip(sizes, values, strict=True))
    return LearningCurve(name, how.label, samples.images, samples.evaluated, measured, tuple(expected))


def sample_sizes(images: int, classes: int) -> list[int]:
    """Numbers of images of the samples, ascending, each about equally many times the one before; the last is all.

    Raises:
        RequestError: There are too few.
    """
    smallest = max(images / SMALLEST, PER_CLASS * classes)
    found = sorted({round(size) for size in np.geomspace(smallest, images, SIZES)}) if smallest < images else []
    if len(found) < SIZES or images < 4 * smallest:
        raise RequestError(
            f"{plural(images, 'training image')} of {plural(classes, 'class')} are too few for a learning curve",
            f"it takes {4 * PER_CLASS * classes} or more",
        )
    return found


def _probe_outputs(task: Task, classes: Sequence[str], pools: tuple[Pool, Pool], size: int, seed: int) -> Outputs:
    train, held = pools
    places = stratified_sample(train.labels, size, seed) if size < len(train) else list(range(len(train)))
    head = task.fit_head(train.features[places], train.targets[places], len(classes), seed=seed)
    return task.outputs(held.features @ head.weight.T + head.bias, held.targets, classes)


def _value(metric: Metric, name: str, outputs: Outputs) -> float:
    value, reason = metric_value(metric, outputs)
    if value is None:
        raise RequestError(f"{name} is undefined on the images that are evaluated: {reason}", "give more images")
    return value


def _turned(bounds: Interval, lower_is_better: bool) -> Interval:
    if lower_is_better or bounds.low is None or bounds.high is None:
        return bounds
    return Interval(1 - bounds.high, 1 - bounds.low)
