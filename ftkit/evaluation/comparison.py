"""Runs beside each other: their models' answers on the same images, and what of the differences is chance."""

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
from ftkit.evaluation.evaluator import judge, run_data
from ftkit.metrics.bootstrap import (
    LEVEL,
    Interval,
    interval,
    mcnemar,
    resampled,
    telling_difference,
)
from ftkit.metrics.classification import score
from ftkit.metrics.names import FIGURES, TOP, no_auroc
from ftkit.metrics.outputs import Array
from ftkit.models.bundle import load_bundle
from ftkit.parts.dataset import SplitName
from ftkit.planning.run_splits import splits_of_run
from ftkit.runs.run_catalog import find_model, read_card, run_of
from ftkit.runs.run_summary import RunSummary, summarize


@dataclass(frozen=True)
class Machine:
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
class Contender:
    """A run with a model, and the config that it was trained by."""

    summary: RunSummary
    bundle: Path
    resolved: Resolved

    @property
    def path(self) -> Path:
        return self.summary.run.path


@dataclass(frozen=True)
class Answers:
    """What a run's best model puts out for every image of a split.

    Attributes:
        names: Of the images, ascending.
        labels: int64 `(n,)`, in that order.
        logits: float32 `(n, classes)`, in that order.
        notes: Lines worth telling.
    """

    contender: Contender
    split: SplitName
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: Tensor
    logits: Tensor
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Against:
    """A run against the first one, on the same images.

    Attributes:
        differences: This run's figures less the first one's, with where that lies, by figure.
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
    def telling(self) -> int:
        """How many images more one of them must have right than the other for that."""
        return telling_difference(self.only_first + self.only_this)


@dataclass(frozen=True)
class Result:
    """One run's figures.

    Attributes:
        figures: Value and where it lies, by figure.
        against: None for the first run, and where nothing can be paired.
    """

    answers: Answers
    figures: Mapping[str, tuple[float | None, Interval]]
    against: Against | None = None


def find_contenders(specs: Iterable[str], runs_dir: Path) -> list[Contender]:
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
        found.append(Contender(summarize(folder), bundle, resolve(folder / "config.yaml", {}, [], {})))
    return found


def common_split(contenders: Sequence[Contender]) -> SplitName:
    """Test, where the data of all runs has such a split; else val."""
    splits = [splits_of_run(one.resolved)[0].test for one in contenders]
    return "test" if all(split is not None and len(split) for split in splits) else "val"


def answer(contender: Contender, split: SplitName, machine: Machine, tell: Note = ignore_note) -> Answers:
    """Let a run's model judge a split of its own data.

    Args:
        tell: Called with a line for people.

    Raises:
        RequestError: The data is gone, has no such split, or the model can't be loaded.
        FtkitError: An image can't be read.
    """
    card = read_card(contender.bundle)
    labelled = run_data(contender.resolved, card, split)
    loaded = load_bundle(contender.bundle, machine.device, machine.precision, contender.resolved.registry)
    store = store_of(contender.resolved.config.cache) if machine.cache else None
    logits = judge(loaded, labelled.split, machine.batch_size, machine.threads, store, tell)
    names = labelled.split.names
    order = torch.tensor(sorted(range(len(names)), key=names.__getitem__))
    changed = f"{labelled.source} has changed since {contender.path} was trained"
    return Answers(
        contender=contender,
        split=labelled.name,
        classes=card.classes,
        names=tuple(sorted(names)),
        labels=torch.tensor(labelled.split.labels, dtype=torch.int64)[order],
        logits=logits[order],
        notes=(*((changed,) if labelled.changed else ()), *(f"{contender.path}: {line}" for line in loaded.notes)),
    )


def compare(answers: Sequence[Answers], figures: Sequence[str], paired: bool = True, seed: int = 0) -> list[Result]:
    """Each run's figures, and each one against the first.

    Args:
        paired: Refuse runs that can't be paired; else set them beside each other, without a test.

    Raises:
        RequestError: A run has other classes or images than the first, or a figure can't be had.
    """
    if paired:
        answers = [answers[0], *(_alike(answers[0], other) for other in answers[1:])]
    for one in answers:
        check_figures(figures, one.labels.tolist(), one.classes)
    draws = [resampled(one.logits, one.labels, figures, seed) for one in answers]
    results = [Result(one, _figures(one, draw)) for one, draw in zip(answers, draws, strict=True)]
    if not paired:
        return results
    others = zip(results[1:], draws[1:], strict=True)
    return [results[0], *(replace(r, against=_against(results[0], draws[0], r, draw)) for r, draw in others)]


def check_figures(figures: Iterable[str], labels: Sequence[int], classes: Sequence[str]) -> None:
    """Refuse figures that these labels don't have.

    Raises:
        RequestError: Names the figure and says why.
    """
    for name in figures:
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


def _alike(first: Answers, other: Answers) -> Answers:
    """The other's answers, their classes in the order of the first one's.

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


def _unlike(first: Answers, other: Answers, what: str) -> RequestError:
    runs = f"{first.contender.path} and {other.contender.path}"
    return RequestError(
        f"{runs} can't be paired: their {what}", "give --unpaired to see them beside each other without a test"
    )


def _difference(ours: set[str], theirs: set[str]) -> str:
    """What one has and the other lacks: one of them, and how many more."""
    only = sorted(ours - theirs) or sorted(theirs - ours)
    more = f" and {len(only) - 1} more" if len(only) > 1 else ""
    return f"{only[0]}{more} {'is' if len(only) == 1 else 'are'} only in the {'first' if ours - theirs else 'second'}"


def _figures(answers: Answers, draws: Mapping[str, Array]) -> dict[str, tuple[float | None, Interval]]:
    summary = score(answers.logits, answers.labels, answers.classes).summary
    return {name: (summary[name], interval(values)) for name, values in draws.items()}


def _against(first: Result, draws: Mapping[str, Array], other: Result, theirs: Mapping[str, Array]) -> Against:
    differences = {}
    for name in FIGURES:
        if name in draws:
            before, after = first.figures[name][0], other.figures[name][0]
            less = after - before if before is not None and after is not None else None
            differences[name] = less, interval(theirs[name] - draws[name])
    right = [(r.answers.logits.argmax(1) == r.answers.labels).numpy() for r in (first, other)]
    return Against(differences, *mcnemar(*right))
