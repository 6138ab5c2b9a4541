"""Ranks backbones on data: the accuracy of a probe on their frozen features, LogME, time and size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

import torch

from ftkit.config.load import Resolved, with_choice
from ftkit.data.loading.seeds import derive
from ftkit.data.multilabel_sampling import stratified_folds
from ftkit.errors import FtkitError, RequestError
from ftkit.experiments.recommend import FrozenFeatures, frozen_features, measured_sample
from ftkit.metrics.report import metric_value
from ftkit.parts.label_sets import Labels, LabelSets, count_classes, label_set
from ftkit.planning.resolve import make_plan
from ftkit.planning.run_data.validation_images import with_one_recipe
from ftkit.planning.run_plan import Plan
from ftkit.tasks.logme import logme

FOLDS = 5
TIMED, REPEATS = 32, 3
"""Images of a timed pass, and number of timed passes; the fastest counts."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """A backbone that was measured.

    Attributes:
        weights: Description of its weights.
        folds: The metric of a probe for the images of each fold, fitted on the others.
        logme: Log-evidence for each image; see `tasks.logme`.
        seconds: Time of the network for an image, without reading it.
        parameters: With a head for the classes of the data.
        megabytes: Of the parameters and buffers in fp32.
        on_frontier: Whether none is both better and as fast, or as good and faster.
    """

    backbone: str
    weights: str
    folds: tuple[float, ...]
    logme: float
    seconds: float
    parameters: int
    megabytes: float
    precision: str
    on_frontier: bool = False

    @property
    def value(self) -> float:
        """The mean over the folds."""
        return fmean(self.folds)

    @property
    def spread(self) -> float:
        """The standard deviation over the folds."""
        return stdev(self.folds)


@dataclass(frozen=True)
class Ranking:
    """Backbones on the same images.

    Attributes:
        metric: Name of the metric: the task's `monitor`.
        images: Number of training images.
        measured: Best first.
        unmeasured: Reasons by backbone.
    """

    metric: str
    images: int
    measured: tuple[Measured, ...]
    unmeasured: Mapping[str, str]


def rank_backbones(
    resolved: Resolved, backbones: Sequence[tuple[str, str | None]], budget: float | None, tell: Tell
) -> Ranking:
    """Measure backbones on a sample of the training images.

    Args:
        backbones: Names with weights; None for their default.
        budget: Seconds after which no further backbone is begun.
        tell: Called with a line before each.

    Raises:
        FtkitError: No backbone could be measured.
    """
    end = None if budget is None else time.monotonic() + budget
    measured, unmeasured, last = list[Measured](), dict[str, str](), None
    for name, plan in _plans(resolved, backbones, unmeasured):
        if end is not None and time.monotonic() >= end and measured:
            unmeasured[name] = "the budget was spent"
            continue
        tell(f"measuring {name}")
        try:
            measured.append(_measure(name, plan, tell))
            last = plan
        except FtkitError as error:
            unmeasured[name] = error.message
    if last is None:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in unmeasured.items())
        raise FtkitError(f"no backbone could be measured: {reasons}", "see ftkit backbones list")
    metric = last.task.monitor
    better = -1 if last.resolved.registry.metrics.get(metric).lower_is_better else 1
    ranked = sorted(measured, key=lambda one: -better * one.value)
    marked = tuple(replace(one, on_frontier=_on_frontier(one, ranked, better)) for one in ranked)
    return Ranking(metric, len(measured_sample(last)), marked, unmeasured)


def _plans(
    resolved: Resolved, backbones: Sequence[tuple[str, str | None]], unmeasured: dict[str, str]
) -> Iterator[tuple[str, Plan]]:
    """A plan for each backbone, all made before the first is measured; reasons for those that have none."""
    plans, resolved = dict[str, Plan](), with_one_recipe(resolved)
    for name, weights in backbones:
        config = resolved.config.model_copy(update={"backbone": name, "weights": weights or "default"})
        try:
            plan = make_plan(with_choice(replace(resolved, config=config), "strategy", "full", {}, {}))
            _check(plan)
        except FtkitError as error:
            unmeasured[name] = error.message
        else:
            plans[name] = plan
    yield from plans.items()


def _check(plan: Plan) -> None:
    """Refuse weights that are random, and labels that can't be cross-validated."""
    if plan.weights.kind == "none":
        raise RequestError("it has no pretrained weights")
    counts = count_classes(measured_sample(plan).labels)
    if plan.task.exclusive and min(counts.values()) < 2:
        raise RequestError("a class has a single image, so there is nothing to hold out")


def _measure(name: str, plan: Plan, tell: Tell) -> Measured:
    images = measured_sample(plan)
    found = frozen_features(plan, images, tell)
    tensors = [*found.network.parameters(), *found.network.buffers()]
    return Measured(
        backbone=name,
        weights=plan.weights.describe(),
        folds=_fold_values(plan, found, images.labels),
        logme=logme(found.values, plan.task.soft_targets(found.targets, plan.num_classes)),
        seconds=_seconds(plan, found),
        parameters=sum(parameter.numel() for parameter in found.network.parameters()),
        megabytes=sum(tensor.numel() for tensor in tensors) * 4 / 1e6,
        precision=found.compute.precision,
    )


def _fold_values(plan: Plan, found: FrozenFeatures, labels: Labels) -> tuple[float, ...]:
    """The metric for each fold, of a head that is fitted on the other folds."""
    task, classes = plan.task, plan.num_classes
    metric, seed = plan.resolved.registry.metrics.get(task.monitor)(), derive(plan.config.seed, "backbones") % 2**32
    sets = LabelSets((label_set(label) for label in labels), classes)
    values, everything = list[float](), set(range(len(labels)))
    for unseen in stratified_folds(sets, min(FOLDS, len(labels)), seed):
        seen = sorted(everything - set(unseen))
        head = task.fit_head(found.values[seen], found.targets[seen], classes, seed=seed)
        logits = found.values[unseen] @ head.weight.T + head.bias
        value, _ = metric_value(metric, task.outputs(logits, found.targets[unseen], plan.splits.classes))
        if value is not None:
            values.append(value)
    if len(values) < 2:
        raise RequestError(f"{task.monitor} is undefined for parts of {len(labels)} images")
    return tuple(values)


def _seconds(plan: Plan, found: FrozenFeatures) -> float:
    """The time of the network for an image, in the batches and the precision of evaluation."""
    compute, size = found.compute, plan.preprocessing.size
    count = min(TIMED, compute.inference_batch_size(size))
    images = compute.to_device(torch.zeros(count, plan.preprocessing.channels, size, size))
    times = []
    with torch.inference_mode(), compute.autocast():
        for _ in range(1 + REPEATS):
            start = time.perf_counter()
            found.network(images).cpu()
            times.append(time.perf_counter() - start)
    return min(times[1:]) / count


def _on_frontier(one: Measured, every: Sequence[Measured], better: int) -> bool:
    def is_beaten_by(other: Measured) -> bool:
        ours, theirs = (better * one.value, -one.seconds), (better * other.value, -other.seconds)
        return all(t >= o for o, t in zip(ours, theirs, strict=True)) and ours != theirs

    return not any(is_beaten_by(other) for other in every)
