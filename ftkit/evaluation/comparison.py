"""Runs beside each other: their models' outputs on the same images, and what of the differences is chance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ftkit.activation_cache.cache_reader import Note, ignore_note, store_of
from ftkit.config.load import Resolved, resolve
from ftkit.errors import RequestError, one_line
from ftkit.evaluation.evaluator import compute_logits, split_of_run
from ftkit.metrics.bootstrap import (
    LEVEL,
    Interval,
    interval,
    mcnemar,
    resampled,
    smallest_difference,
)
from ftkit.metrics.classification import evaluate_outputs
from ftkit.metrics.names import METRICS, TOP, no_auroc
from ftkit.metrics.outputs import Array
from ftkit.models.bundle import load_bundle
from ftkit.parts.dataset import SplitName
from ftkit.planning.run_splits import splits_of_run
from ftkit.runs.model_card import read_card
from ftkit.runs.run_lookup import find_model, run_of
from ftkit.runs.run_summary import RunSummary, summarize


@dataclass(frozen=True)
class ComputeOptions:
    """Where and how to compute.

    Attributes:
        cache: Whether what runs have kept of their frozen layers may be used.
    """

    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    batch_size: int = 64
    cache: bool = True


@dataclass(frozen=True)
class TrainedRun:
    """A run with a model, and the config that it was trained by."""

    summary: RunSummary
    bundle: Path
    resolved: Resolved

    @property
    def path(self) -> Path:
        return self.summary.run.path


@dataclass(frozen=True)
class SplitOutputs:
    """What a run's best model puts out for every image of a split.

    Attributes:
        names: Of the images, ascending.
        labels: int64 `(n,)`, in that order.
        logits: float32 `(n, classes)`, in that order.
        notes: Lines worth telling.
    """

    trained: TrainedRun
    split: SplitName
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: Tensor
    logits: Tensor
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairedComparison:
    """A run against the first one, on the same images.

    Attributes:
        differences: This run's metrics less the first one's, with where that lies, by metric.
        only_first, only_this: Images that one of the two has right and the other hasn't.
        p: Of McNemar's exact test on these.
    """

    differences: Mapping[str, tuple[float | None, Interval]]
    only_first: int
    only_this: int
    p: float

    @property
    def is_chance(self) -> bool:
        """Whether the images can't tell the two apart, with p of 0.05 or more."""
        return self.p >= LEVEL

    @property
    def smallest_difference(self) -> int:
        """How many images more one of them must have right than the other for that."""
        return smallest_difference(self.only_first + self.only_this)


@dataclass(frozen=True)
class Result:
    """One run's metrics.

    Attributes:
        metrics: Value and where it lies, by metric.
        against: None for the first run, and where nothing can be paired.
    """

    outputs: SplitOutputs
    metrics: Mapping[str, tuple[float | None, Interval]]
    against: PairedComparison | None = None


def find_trained_runs(specs: Iterable[str], runs_dir: Path) -> list[TrainedRun]:
    """The runs that a person names, each with its model.

    Raises:
        RequestError: One isn't there, has no model yet, or is a model without its run.
    """
    found = []
    for spec in specs:
        bundle = find_model(spec, runs_dir)
        folder = run_of(bundle)
        if folder is None or not (folder / "config.yaml").is_file():
            raise RequestError(
                f"{spec} is a model on its own, without its run", "runs can be compared; ftkit evaluate takes models"
            )
        found.append(TrainedRun(summarize(folder), bundle, resolve(folder / "config.yaml", {}, [], {})))
    return found


def common_split(trained_runs: Sequence[TrainedRun]) -> SplitName:
    """Test, where the data of all runs has such a split; else val."""
    splits = [splits_of_run(one.resolved)[0].test for one in trained_runs]
    return "test" if all(split is not None and len(split) for split in splits) else "val"


def predict_split(
    trained: TrainedRun, split: SplitName, options: ComputeOptions, tell: Note = ignore_note
) -> SplitOutputs:
    """Let a run's model judge a split of its own data.

    Args:
        tell: Called with a line for people.

    Raises:
        RequestError: The data is gone, has no such split, or the model can't be loaded.
        FtkitError: An image can't be read.
    """
    card = read_card(trained.bundle)
    labelled = split_of_run(trained.resolved, card, split)
    loaded = load_bundle(trained.bundle, options.device, options.precision, trained.resolved.registry)
    store = store_of(trained.resolved.config.cache) if options.cache else None
    logits = compute_logits(loaded, labelled.split, options.batch_size, options.threads, store, tell)
    names = labelled.split.names
    order = torch.tensor(sorted(range(len(names)), key=names.__getitem__))
    changed = f"{labelled.source} has changed since {trained.path} was trained"
    return SplitOutputs(
        trained=trained,
        split=labelled.name,
        classes=card.classes,
        names=tuple(sorted(names)),
        labels=torch.tensor(labelled.split.labels, dtype=torch.int64)[order],
        logits=logits[order],
        notes=(*((changed,) if labelled.changed else ()), *(f"{trained.path}: {line}" for line in loaded.notes)),
    )


def compare(
    outputs: Sequence[SplitOutputs], metrics: Sequence[str], paired: bool = True, seed: int = 0
) -> list[Result]:
    """Each run's metrics, and each one against the first.

    Args:
        paired: Refuse runs that can't be paired; else set them beside each other, without a test.

    Raises:
        RequestError: A run has other classes or images than the first, or a metric can't be had.
    """
    if paired:
        outputs = [outputs[0], *(_alike(outputs[0], other) for other in outputs[1:])]
    for one in outputs:
        check_metrics(metrics, one.labels.tolist(), one.classes)
    draws = [resampled(one.logits, one.labels, metrics, seed) for one in outputs]
    results = [Result(one, _estimates(one, draw)) for one, draw in zip(outputs, draws, strict=True)]
    if not paired:
        return results
    others = zip(results[1:], draws[1:], strict=True)
    return [results[0], *(replace(r, against=_against(results[0], draws[0], r, draw)) for r, draw in others)]


def check_metrics(metrics: Iterable[str], labels: Sequence[int], classes: Sequence[str]) -> None:
    """Refuse metrics that these labels don't have.

    Raises:
        RequestError: Names the metric and says why.
    """
    for name in metrics:
        reason = ""
        if name == "top5" and len(classes) <= TOP:
            reason = f"with {len(classes)} classes it would always be 1"
        if name == "auroc":
            reason = no_auroc(labels, classes)
        if reason:
            raise RequestError(f"--metric {name}: the images have none: {one_line(reason)}", "leave it out")


def trainable(plan: Mapping[str, Any]) -> int | None:
    """The most parameters that a run's saved plan trains at a time; a probe trains the head alone.

    None for a run of an earlier ftkit, which didn't record the counts of backbones without a `summary`.
    """
    counts = [phase["trainable"] for phase in plan["phases"]]
    if not counts:
        counts = [plan["groups"][-1]["parameters"] if plan.get("probe") else 0]
    return None if None in counts else int(max(counts))


def seconds(summary: RunSummary) -> float:
    """Spent on a run's epochs, the probe included."""
    return float(sum(record["seconds"] for record in summary.records))


def _alike(first: SplitOutputs, other: SplitOutputs) -> SplitOutputs:
    """The other's outputs, their classes in the order of the first one's.

    Raises:
        RequestError: Classes or images differ; names what.
    """
    for what, ours, theirs in (
        ("classes", set(first.classes), set(other.classes)),
        (f"{first.split} images", set(first.names), set(other.names)),
    ):
        if ours != theirs:
            raise _unlike(first, other, f"{what} differ: {_difference(ours, theirs)}")
    known = {name: place for place, name in enumerate(other.classes)}
    places = [known[name] for name in first.classes]
    labels = torch.tensor(places).argsort()[other.labels]
    moved = [name for name, a, b in zip(first.names, first.labels, labels, strict=True) if a != b]
    if moved:
        raise _unlike(first, other, f"classes of {first.split} images differ, as that of {moved[0]}")
    return replace(other, classes=first.classes, labels=labels, logits=other.logits[:, places])


def _unlike(first: SplitOutputs, other: SplitOutputs, what: str) -> RequestError:
    runs = f"{first.trained.path} and {other.trained.path}"
    return RequestError(
        f"{runs} can't be paired: their {what}", "give --unpaired to see them beside each other without a test"
    )


def _difference(ours: set[str], theirs: set[str]) -> str:
    """What one has and the other lacks: one of them, and how many more."""
    only = sorted(ours - theirs) or sorted(theirs - ours)
    more = f" and {len(only) - 1} more" if len(only) > 1 else ""
    return f"{only[0]}{more} {'is' if len(only) == 1 else 'are'} only in the {'first' if ours - theirs else 'second'}"


def _estimates(outputs: SplitOutputs, draws: Mapping[str, Array]) -> dict[str, tuple[float | None, Interval]]:
    summary = evaluate_outputs(outputs.logits, outputs.labels, outputs.classes).summary
    return {name: (summary[name], interval(values)) for name, values in draws.items()}


def _against(first: Result, draws: Mapping[str, Array], other: Result, theirs: Mapping[str, Array]) -> PairedComparison:
    differences = {}
    for name in METRICS:
        if name in draws:
            before, after = first.metrics[name][0], other.metrics[name][0]
            less = after - before if before is not None and after is not None else None
            differences[name] = less, interval(theirs[name] - draws[name])
    right = [(r.outputs.logits.argmax(1) == r.outputs.labels).numpy() for r in (first, other)]
    return PairedComparison(differences, *mcnemar(*right))
