"""Trained runs, and the outputs of their models for a split of their data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ftkit.activation_cache.cache_reader import Note, ignore_note, store_of
from ftkit.config.load import Resolved, resolve
from ftkit.errors import RequestError
from ftkit.evaluation.evaluation_data import split_of_run
from ftkit.evaluation.evaluator import ComputeOptions, logits_and_targets
from ftkit.metrics.outputs import Outputs
from ftkit.models.bundle import load_bundle
from ftkit.parts.dataset import SplitName
from ftkit.parts.task import Task
from ftkit.planning.run_data.run_splits import splits_of_run
from ftkit.runs.model_card import read_card
from ftkit.runs.run_lookup import find_model, run_of
from ftkit.runs.run_summary import RunSummary, summarize


@dataclass(frozen=True)
class TrainedRun:
    """A run with a model, and the config of its training; or an ensemble, with the config of a run to compare it with.

    Attributes:
        summary: None for an ensemble.
    """

    summary: RunSummary | None
    bundle: Path
    resolved: Resolved

    @property
    def path(self) -> Path:
        return self.bundle if self.summary is None else self.summary.run.path

    @property
    def seconds(self) -> float | None:
        """Time spent on the run's epochs, the probe included; None for an ensemble."""
        return None if self.summary is None else float(sum(record["seconds"] for record in self.summary.records))

    @property
    def trainable(self) -> int | None:
        """The most parameters that train at a time; a probe trains the head alone.

        None for an ensemble, and for a run of an earlier ftkit, which didn't record the counts of backbones without a
        `summary`.
        """
        return None if self.summary is None else most_trainable(self.summary.plan)


def most_trainable(plan: Mapping[str, Any]) -> int | None:
    """The most parameters that a run's saved plan trains at a time, as `TrainedRun.trainable`."""
    counts = [phase["trainable"] for phase in plan["phases"]]
    if not counts:
        counts = [plan["groups"][-1]["parameters"] if plan.get("probe") else 0]
    return None if None in counts else int(max(counts))


@dataclass(frozen=True)
class SplitOutputs:
    """The outputs of a run's best model for a split.

    Attributes:
        names: Names of the images, ascending.
        targets: The result of `Task.targets`, in the order of `names`.
        decision: What turns scores into predictions.
        logits: float32 `(n, classes)`, in the order of `names`.
        notes: Lines to report.
        precision: That the outputs were computed in.
    """

    trained: TrainedRun
    split: SplitName
    classes: tuple[str, ...]
    names: tuple[str, ...]
    targets: Tensor
    logits: Tensor
    task: Task
    decision: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    precision: str = "fp32"

    @property
    def outputs(self) -> Outputs:
        return self.task.outputs(self.logits, self.targets, self.classes, self.decision)


def find_trained_runs(specs: Iterable[str], runs_dir: Path) -> list[TrainedRun]:
    """Runs with their models, by folder or by name under `runs_dir`, and ensembles, by folder.

    Raises:
        RequestError: A run is missing, has no model yet, or is a model without its run; or there are ensembles alone.
    """
    bundles = [(spec, find_model(spec, runs_dir)) for spec in specs]
    found = [None if read_card(bundle).members else _trained_run(spec, bundle) for spec, bundle in bundles]
    runs = [one for one in found if one is not None]
    if not runs:
        raise RequestError("there are ensembles alone, whose images are unknown", "give a run on the same images too")
    # An ensemble is evaluated on the images of the first run.
    ensembles = (TrainedRun(None, bundle, runs[0].resolved) for _, bundle in bundles)
    return [ensemble if one is None else one for one, ensemble in zip(found, ensembles, strict=True)]


def _trained_run(spec: str, bundle: Path) -> TrainedRun:
    folder = run_of(bundle)
    if folder is None or not (folder / "config.yaml").is_file():
        raise RequestError(
            f"{spec} is a model on its own, without its run", "runs can be compared; ftkit evaluate takes models"
        )
    return TrainedRun(summarize(folder), bundle, resolve(folder / "config.yaml", {}, [], {}))


def common_split(trained_runs: Sequence[TrainedRun]) -> SplitName:
    """`test` where the data of all runs has such a split, else `val`."""
    splits = [splits_of_run(one.resolved)[0].test for one in trained_runs]
    return "test" if all(split is not None and len(split) for split in splits) else "val"


def predict_split(
    trained: TrainedRun, split: SplitName, options: ComputeOptions, tell: Note = ignore_note
) -> SplitOutputs:
    """The outputs of a run's model for a split of the run's own data.

    Args:
        tell: Called with lines to report.

    Raises:
        RequestError: The data is missing or has no such split, the model can't be loaded, or it is an ensemble and the
            split isn't test.
        FtkitError: An image can't be read.
    """
    card = read_card(trained.bundle)
    if trained.summary is None and split != "test":
        raise RequestError(
            f"{trained.path} is an ensemble, whose members may have been trained on the {split} images of a run",
            "compare on a test split",
        )
    labelled = split_of_run(trained.resolved, card, split, trained.path)
    loaded = load_bundle(trained.bundle, options.device, options.precision, trained.resolved.registry)
    if labelled.outputs is not None:
        tell(f"{trained.path}: {labelled.notes[-1]}")
    store = store_of(trained.resolved.config.cache) if options.cache else None
    logits, targets = logits_and_targets(loaded, labelled, options, store, tell)
    names = labelled.split.names
    order = torch.tensor(sorted(range(len(names)), key=names.__getitem__))
    changed = f"{labelled.source} has changed since {trained.path} was trained"
    return SplitOutputs(
        trained=trained,
        split=labelled.name,
        classes=card.classes,
        names=tuple(sorted(names)),
        targets=targets[order],
        logits=logits[order],
        task=loaded.task,
        decision=card.applied_decision,
        notes=(
            *((changed,) if labelled.changed and trained.summary else ()),
            *(f"{trained.path}: {line}" for line in loaded.notes),
        ),
        precision=loaded.precision,
    )
