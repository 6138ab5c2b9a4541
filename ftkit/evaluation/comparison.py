"""Compares runs on the same images: metrics with intervals, and a paired test of each run against the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ftkit.errors import RequestError, one_line, plural
from ftkit.evaluation.trained_runs import SplitOutputs
from ftkit.metrics.bootstrap import Interval, interval, resampled
from ftkit.metrics.paired_test import LEVEL, mcnemar, smallest_difference
from ftkit.metrics.report import metric_value
from ftkit.metrics.rounding import digits_of
from ftkit.metrics.selection import check_defined
from ftkit.parts.metric import Array, Metric

Estimate = tuple[float | None, Interval]
"""A metric, or a difference of metrics, with its interval."""


@dataclass(frozen=True)
class PairedComparison:
    """A run compared with the first one on the same images.

    Attributes:
        differences: This run's metrics less the first one's, by name.
        only_first, only_this: Number of images that only one of the two predicts rightly.
        p: The p-value of McNemar's exact test on these.
    """

    differences: Mapping[str, Estimate]
    only_first: int
    only_this: int
    p: float

    @property
    def is_chance(self) -> bool:
        """Whether the difference is within chance, with a p-value of 0.05 or more."""
        return self.p >= LEVEL

    @property
    def smallest_difference(self) -> int:
        """How many more images one of them must predict rightly for a smaller p-value."""
        return smallest_difference(self.only_first + self.only_this)


@dataclass(frozen=True)
class Result:
    """One run's metrics, by name.

    Attributes:
        against: None for the first run, and without pairing.
    """

    outputs: SplitOutputs
    metrics: Mapping[str, Estimate]
    against: PairedComparison | None = None


def compare(
    outputs: Sequence[SplitOutputs], metrics: Mapping[str, Metric], paired: bool = True, seed: int = 0
) -> list[Result]:
    """Evaluate each run, and compare each with the first.

    Args:
        paired: Refuse runs that can't be paired. Otherwise the runs are evaluated without a test.

    Raises:
        RequestError: A run has other classes or images than the first, or a metric is undefined for its images.
    """
    if paired:
        outputs = [outputs[0], *(_aligned(outputs[0], other) for other in outputs[1:])]
    for one in outputs:
        support = one.outputs.support.tolist()
        check_defined(metrics, one.task.name, support, len(one.names), one.classes, "--metric", f"{one.split} images")
    results, draws = [], []
    for one in outputs:
        found = one.outputs
        draws.append(resampled(found, metrics, seed))
        values = {name: metric_value(metric, found)[0] for name, metric in metrics.items()}
        results.append(Result(one, {name: (values[name], interval(draws[-1][name])) for name in metrics}))
    if not paired:
        return results
    others = zip(results[1:], draws[1:], strict=True)
    return [results[0], *(replace(r, against=_against(results[0], draws[0], r, draw)) for r, draw in others)]


def verdict(name: str, first: str, against: PairedComparison, images: int, accuracy: str = "accuracy") -> str:
    """The result of the test, with the smallest significant difference, since p alone hides the test's power."""
    more = against.only_this - against.only_first
    if against.is_chance:
        least = f"{against.smallest_difference / images:.{digits_of(images)}f} in {accuracy}"
        return (
            f"{name}: not significantly different from {first} on {plural(images, 'image')}: "
            f"{more:+d} correct; {against.smallest_difference} ({least}) would be significant"
        )
    return f"{name}: significantly {'better' if more > 0 else 'worse'} than {first} (p below 0.05)"


def run_names(results: Sequence[Result]) -> list[str]:
    """Names of the runs, or paths for runs with equal names."""
    paths = [r.outputs.trained.path for r in results]
    known = Counter(path.name for path in paths)
    return [one_line(path.name if known[path.name] == 1 else str(path)) for path in paths]


def _aligned(first: SplitOutputs, other: SplitOutputs) -> SplitOutputs:
    """The other run's outputs, with the classes in the order of the first run's.

    Raises:
        RequestError: Classes or images differ; the message names a difference.
    """
    if first.task.name != other.task.name:
        raise _unlike(first, other, f"tasks differ: {first.task.name} and {other.task.name}")
    for what, ours, theirs in (
        ("classes", set(first.classes), set(other.classes)),
        (f"{first.split} images", set(first.names), set(other.names)),
    ):
        if ours != theirs:
            raise _unlike(first, other, f"{what} differ: {_difference(ours, theirs)}")
    known = {name: place for place, name in enumerate(other.classes)}
    places = [known[name] for name in first.classes]
    targets = other.task.reordered(other.targets, places)
    same = (first.targets == targets).reshape(len(targets), -1).all(dim=1).tolist()
    relabelled = [name for name, is_same in zip(first.names, same, strict=True) if not is_same]
    if relabelled:
        raise _unlike(first, other, f"classes of {first.split} images differ, as that of {relabelled[0]}")
    return replace(
        other,
        classes=first.classes,
        targets=targets,
        logits=other.logits[:, places],
        decision=other.task.reordered_decision(other.decision, places),
    )


def _unlike(first: SplitOutputs, other: SplitOutputs, what: str) -> RequestError:
    runs = f"{first.trained.path} and {other.trained.path}"
    return RequestError(
        f"{runs} can't be paired: their {what}", "ftkit compare --unpaired shows them beside each other without a test"
    )


def _difference(ours: set[str], theirs: set[str]) -> str:
    """The first name that only one of the two has, and the number of further ones."""
    only = sorted(ours - theirs) or sorted(theirs - ours)
    more = f" and {len(only) - 1} more" if len(only) > 1 else ""
    return f"{only[0]}{more} {'is' if len(only) == 1 else 'are'} only in the {'first' if ours - theirs else 'second'}"


def _against(first: Result, draws: Mapping[str, Array], other: Result, theirs: Mapping[str, Array]) -> PairedComparison:
    differences = {}
    for name in draws:
        before, after = first.metrics[name][0], other.metrics[name][0]
        less = after - before if before is not None and after is not None else None
        differences[name] = less, interval(theirs[name] - draws[name])
    right = [r.outputs.outputs.right for r in (first, other)]
    return PairedComparison(differences, *mcnemar(*right))
