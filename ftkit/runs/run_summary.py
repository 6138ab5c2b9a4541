"""The summary of a run, read from its folder: config, plan, state and records."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from ftkit.errors import RequestError
from ftkit.metrics.selection import is_better
from ftkit.runs.averages import Average, describe_average, kept_average
from ftkit.runs.cross_fitting_record import CrossFitting, read_cross_fitting
from ftkit.runs.run_folder import RunFolder

RunState = Literal["finished", "pruned", "running", "stopped"]


@dataclass(frozen=True)
class RunSummary:
    """A run, read from its folder; it may be under way.

    Attributes:
        started: The time when the folder was created, in local time.
        state: `stopped` is an unfinished run that no process trains; it can be resumed. `pruned` is one that a sweep
            has ended early.
        config: The config as it was saved, unchecked: its plugins need not be installed.
        plan: The plan as it was saved.
        records: One per epoch.
        layer_drift: Weight drift by layer, once the run is finished.
        average: The average of weights that is the run's model; None where the model is of an epoch.
        cross_fitting: What a cross-fitted run has found, once it is finished.
    """

    run: RunFolder
    started: datetime
    state: RunState
    config: Mapping[str, Any]
    plan: Mapping[str, Any]
    records: tuple[Mapping[str, Any], ...]
    layer_drift: Mapping[str, Any] | None
    average: Average | None = None
    cross_fitting: CrossFitting | None = None

    @property
    def data(self) -> str:
        """The dataset's name and its folder or file."""
        section = self.config["dataset"]
        place = section.get("root") or section.get("path")
        return f"{section['name']} {place}" if isinstance(place, str) else str(section["name"])

    @property
    def strategy(self) -> str:
        return str(self.config["strategy"]["name"])

    @property
    def monitor(self) -> str:
        """The metric that selects the best epoch."""
        return str(self.config["monitor"])

    @property
    def metric_labels(self) -> Mapping[str, str]:
        """Labels of the recorded metrics, by name."""
        return {name: metric["label"] for name, metric in self.plan["metrics"].items()}

    @property
    def processes(self) -> int:
        """The number of processes that the run was planned for."""
        return int(self.plan.get("world_size", 1))

    @property
    def epochs(self) -> int:
        """Whole epochs done."""
        return int(self.records[-1]["epoch"]) if self.records else 0

    @property
    def planned(self) -> int:
        return int(self.config["epochs"])

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The record of the model, as `best_record` gives it."""
        lower = bool(self.plan["metrics"][self.monitor]["lower_is_better"])
        return best_record(self.records, self.average, self.monitor, lower)

    @property
    def fold_sizes(self) -> Sequence[int]:
        """Number of validation images of each fold of a cross-fitted run; empty for other runs."""
        return self.plan.get("fold_sizes") or ()

    @property
    def folds(self) -> list[RunFolder]:
        """The runs of the folds that have begun."""
        numbers = range(1, len(self.fold_sizes) + 1)
        return [fold for number in numbers if (fold := RunFolder(self.run.folds / str(number))).path.is_dir()]

    @property
    def weight_drift(self) -> Mapping[str, float | None]:
        """Weight drift of each layer group at the last record."""
        return self.records[-1].get("weight_drift", {}) if self.records else {}

    def value(self, record: Mapping[str, Any] | None) -> float | None:
        """The monitored metric of an epoch's model."""
        return None if record is None else model_record(record).get(f"val_{self.monitor}")


def model_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch's record with the metrics of the weights that are its model: the trained ones, or those of a callback.

    An epoch with weights of callbacks has the better ones' name as `selected_weights`, and their metrics as
    `val_NAME_accuracy` and so on.
    """
    prefix = f"val_{record.get('selected_weights')}_"
    return {**record, **{f"val_{k.removeprefix(prefix)}": v for k, v in record.items() if k.startswith(prefix)}}


def best_record(
    records: Iterable[Mapping[str, Any]], average: Average | None, monitor: str, lower_is_better: bool
) -> dict[str, Any] | None:
    """The record of a run's model; None before the first epoch.

    That is the record of the best epoch, the earliest of equals, with the metrics of its model. If a better average of
    weights was kept, it is the record of the last epoch that it goes to, with the metrics of the average, and which
    weights were averaged under `average`.

    Args:
        average: The average that was kept. An epoch of an extended run may be better than one of before.
    """
    best, ends = None, {}
    for record in map(model_record, records):
        ends[record["epoch"]] = record
        if _is_better(record.get(f"val_{monitor}"), best, monitor, lower_is_better):
            best = record
    last = ends.get(average.epochs[-1]) if average is not None else None
    if average is None or last is None or not _is_better(average.value(monitor), best, monitor, lower_is_better):
        return best
    known = {key: value for key, value in last.items() if key != "selected_weights" and not key.startswith("val_")}
    return {**known, **(average.metrics or {}), "average": average.facts}


def _is_better(value: float | None, best: Mapping[str, Any] | None, monitor: str, lower_is_better: bool) -> bool:
    before = None if best is None else best.get(f"val_{monitor}")
    return is_better(math.nan if value is None else value, before, lower_is_better)


def describe_model(record: Mapping[str, Any]) -> str:
    """Which weights a model has, by its record or card: `epoch 10`, or the average of several epochs."""
    average = record.get("average")
    return describe_average(average["epochs"], average["share"]) if average else f"epoch {record['epoch']}"


def summarize(folder: Path) -> RunSummary:
    """Read a run's folder.

    Raises:
        RequestError: A file of it is missing or isn't what ftkit wrote.
    """
    run = RunFolder(folder)
    config, plan, found = _read(run.config), _read(run.plan), read_cross_fitting(run)
    try:
        records = _records(run, config, plan)
        summary = RunSummary(
            run, _started(run), _state(run), config, plan, records, _layer_drift(run), kept_average(run), found
        )
        _ = summary.data, summary.strategy, summary.planned, summary.best, summary.metric_labels, plan["backbone"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _strange(folder, f"{type(error).__name__} {error}") from None
    return summary


def _records(run: RunFolder, config: Mapping[str, Any], plan: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The records; a finished run that has trained by itself, without folds, has some."""
    if run.is_finished and config["epochs"] and not plan.get("fold_sizes") and not run.metrics.is_file():
        raise RequestError(f"{run.metrics} is missing", "put it back, or remove the run")
    return tuple(run.records())


def _started(run: RunFolder) -> datetime:
    # Written when the folder was created; later changes keep its time.
    return datetime.fromtimestamp(run.config.stat().st_mtime).astimezone()


def _state(run: RunFolder) -> RunState:
    if run.is_finished:
        return "finished"
    if run.is_locked():
        return "running"
    return "pruned" if run.pruned.is_file() else "stopped"


def _layer_drift(run: RunFolder) -> Mapping[str, Any] | None:
    return _read(run.weight_drift) if run.weight_drift.exists() else None


def _read(path: Path) -> dict[str, Any]:
    """A mapping in YAML, or in JSON by the file's name."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except FileNotFoundError:
        raise RequestError(f"{path} is missing", "a run's folder holds config.yaml and plan.json") from None
    except (ValueError, yaml.YAMLError):
        raise _strange(path, "it can't be read") from None
    if not isinstance(content, dict):
        raise _strange(path, "it isn't a mapping")
    return content


def _strange(path: Path, reason: str) -> RequestError:
    return RequestError(f"{path} isn't what ftkit wrote: {reason}", "put it back as it was, or remove the run")
