"""Trials: a run for each strategy and seed. Stopped runs are resumed, and finished ones are reused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Literal

from ftkit.config.load import Resolved, resolve, with_choice
from ftkit.config.schema import Config
from ftkit.errors import RequestError
from ftkit.experiments.auto_strategy import measured_key, resolve_auto
from ftkit.files.json_text import dump_json
from ftkit.parts.dataset import SplitName
from ftkit.parts.task import Task
from ftkit.planning.backbone_choice import name_backbone
from ftkit.planning.resolve import make_plan
from ftkit.planning.run_data.validation_images import with_one_recipe
from ftkit.planning.run_plan import Plan
from ftkit.runs.run_folder import RunFolder
from ftkit.training.preparation.open_run import open_run

if TYPE_CHECKING:
    from ftkit.evaluation.evaluator import ComputeOptions
    from ftkit.evaluation.trained_runs import TrainedRun
    from ftkit.parts.metric import Metric
    from ftkit.training.events import Listener
    from ftkit.training.train import Outcome

FLAG = "--strategies"

WITHOUT_EFFECT = (
    "checkpoint",
    "device",
    "metrics",
    "name",
    "novelty_features",
    "output",
    "report",
    "tracker",
    "workers",
)
"""Settings in which an existing run may differ from the request: they don't change its result."""

Tell = Callable[[str], None]
TrialState = Literal["new", "stopped", "finished"]


@dataclass(frozen=True)
class Trial:
    """One run of a comparison.

    Attributes:
        strategy: The requested name; `auto` is replaced in `resolved`.
        resolved: The request, with the name of the run.
        has_test: Whether the data has a test split.
        notes: Notes for the plan.
    """

    strategy: str
    seed: int
    resolved: Resolved
    folder: RunFolder
    state: TrialState
    has_test: bool
    task: Task
    notes: tuple[str, ...] = ()


def plan_trials(resolved: Resolved, strategies: Sequence[str], seeds: int, tell: Tell | None = None) -> list[Trial]:
    """Plan every run before the first one is trained, so that errors are found at once.

    Args:
        seeds: Number of seeds, from the config's own upwards.
        tell: Called with a line before a step that takes long.

    Raises:
        RequestError: A strategy is unknown or can't be used, or a folder is taken by another run.
    """
    repeated = next((name for i, name in enumerate(strategies) if name in strategies[:i]), None)
    if repeated is not None or not all(strategies):
        raise RequestError(
            f"{FLAG}: {repeated} is given twice" if repeated else f"{FLAG}: a name is empty",
            "write it like freeze,gradual",
        )
    if (key := measured_key(resolved.config)) is not None:
        raise RequestError(
            f"{resolved.where(key)}: auto may give each run another value, and compared runs should have the same",
            "give a number",
        )
    resolved = with_one_recipe(resolved)
    if resolved.config.budget is not None:
        where = resolved.where("budget")
        raise RequestError(f"{where}: a search gives each run another recipe, and strategies are compared", "drop it")
    require_no_report(resolved)
    resolved = name_backbone(resolved)  # Once, so that all trials have the same.
    requests = [(name, _with_strategy(resolved, name, tell)) for name in strategies]
    first = resolved.config.seed
    return [_plan(name, request, seed, tell) for name, request in requests for seed in range(first, first + seeds)]


def run_trial(trial: Trial, listener: Listener | None = None) -> Outcome:
    """Train a run that isn't finished.

    Raises:
        RequestError: The machine can't do what was asked, or the data has changed.
        FtkitError: The run failed; its folder is kept.
        RunInterrupted: A signal stopped the run, after a checkpoint.
    """
    from ftkit.cross_fitting.cross_fit import execute

    own = replace(trial.resolved, config=trial.resolved.config.model_copy(update={"report": False}))
    plan = make_plan(own, run=None if trial.state == "new" else trial.folder)
    plan = replace(plan, notes=(*trial.notes, *plan.notes))
    if trial.state == "new":
        return execute(plan, open_run(plan), listener)
    return execute(plan, trial.folder, listener, resume=True)


def require_no_report(resolved: Resolved) -> None:
    """Refuse a request for reports of trials, which there may be hundreds of.

    Raises:
        RequestError: A flag or a variable asks for them.
    """
    if resolved.config.report and resolved.is_requested("report"):
        where = resolved.where("report")
        raise RequestError(f"{where} has no effect: trials have no report", "write one of a trial with ftkit report")


def _with_strategy(resolved: Resolved, name: str, tell: Tell | None) -> Resolved:
    """The request with one of the strategies; its options in the config file are kept."""
    config = resolved.config
    options = config.strategy.options if config.strategy.name == name else {}
    chosen = with_choice(resolved, "strategy", name, options, {"strategy.name": FLAG})
    cls = resolved.registry.strategies.get(name)
    if cls.default_weights == "none" and config.weights not in (None, "none"):
        if tell is not None:
            tell(f"{name} starts from random weights, without the given ones")
        chosen = replace(chosen, config=chosen.config.model_copy(update={"weights": "none"}))
    if cls.probe == "only":
        # The number of epochs is meant for the strategies that train any.
        sources = {key: where for key, where in chosen.sources.items() if key != "epochs"}
        chosen = replace(chosen, sources=sources)
    return chosen


def _plan(strategy: str, resolved: Resolved, seed: int, tell: Tell | None) -> Trial:
    name = f"{strategy.replace('/', '-')}-seed{seed}"
    config = resolved.config.model_copy(update={"seed": seed, "name": name})
    settled, notes = resolve_auto(replace(resolved, config=config), tell)
    plan = make_plan(settled, tell, fetch=True)
    has_test = plan.splits.test is not None and len(plan.splits.test) > 0
    folder, state = _folder(Path(config.output), name, plan, tell or _ignore)
    own = replace(plan.resolved, config=plan.config.model_copy(update={"name": folder.name}))
    return Trial(strategy, seed, own, folder, state, has_test, plan.task, notes)


def _folder(output: Path, name: str, plan: Plan, tell: Tell) -> tuple[RunFolder, TrialState]:
    """The folder and state of a trial; a run with other inputs keeps its folder, and the trial gets another one."""
    from ftkit.training.preparation.run_inputs import changed_inputs

    names = (name, *(f"{name}-{number}" for number in range(2, 100)))
    for each in names:
        folder = RunFolder(output / each)
        state = state_of(folder, plan)
        changed = changed_inputs(folder, plan) if state != "new" else None
        if changed is None:
            return folder, state
        tell(f"{folder.path} isn't used: {changed}")
    raise RequestError(f"{output}: {names[0]} to {names[-1]} exist already", "give another --output, or remove some")


def _ignore(line: str) -> None:
    """Ignore a line."""


def state_of(folder: RunFolder, plan: Plan) -> TrialState:
    """The state of a run.

    Raises:
        RequestError: The folder has another run, or another process trains the run.
    """
    if not folder.path.exists():
        return "new"
    if not (folder.config.is_file() and folder.plan.is_file()):
        raise RequestError(f"{folder.path} exists and isn't a run", "remove it, or give another --output")
    _require_same(folder, plan)
    if folder.is_finished:
        return "finished"
    if folder.is_locked():
        raise RequestError(f"{folder.path}: another process trains this run", "wait for it, or stop it")
    return "stopped"


def _require_same(folder: RunFolder, plan: Plan) -> None:
    there, wanted = settings_of(resolve(folder.config, {}, [], {}).config), settings_of(plan.config)
    differs = next((key for key in sorted(there.keys() | wanted) if there.get(key) != wanted.get(key)), None)
    reason = ""
    if differs is not None:
        reason = f"its {differs} is {_shown(there.get(differs))}, the requested one is {_shown(wanted.get(differs))}"
    elif json.loads(folder.plan.read_text(encoding="utf-8")).get("fingerprint") != plan.fingerprint:
        reason = "its data has changed"
    if reason:
        raise RequestError(f"{folder.path} is another run: {reason}", "give another --output, or remove it")


def settings_of(config: Config) -> dict[str, Any]:
    """Settings that a run's result depends on, by dotted key."""
    found: dict[str, Any] = {}
    for key, value in config.model_dump(mode="json").items():
        if key not in WITHOUT_EFFECT:
            found |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return found


def _shown(value: object) -> str:
    return dump_json(value, ascii_only=False)


@dataclass(frozen=True)
class TrialResult:
    """The result of one run.

    Attributes:
        metrics: Metrics of the best epoch's model, by split and name; None for an undefined one.
        epoch: The best epoch.
        epochs: Number of epochs trained.
        trainable: The most parameters that train at a time; None where the run's record lacks it.
    """

    trial: Trial
    metrics: Mapping[SplitName, Mapping[str, float | None]]
    epoch: int
    epochs: int
    seconds: float
    trainable: int | None


def evaluate_trial(
    trial: Trial, splits: Sequence[SplitName], metrics: Mapping[str, Metric], options: ComputeOptions
) -> TrialResult:
    """The metrics of a finished run: for validation as recorded, for test of its best model.

    Raises:
        RequestError: The run's folder is damaged, or a metric is undefined for its data.
        FtkitError: An image can't be read.
    """
    from ftkit.evaluation.trained_runs import find_trained_runs

    (trained,) = find_trained_runs([str(trial.folder.path)], trial.folder.path.parent)
    summary, seconds = trained.summary, trained.seconds
    assert summary is not None and seconds is not None, "a trial is a run"  # noqa: PT018
    best = summary.best
    assert best is not None, "a finished run has records"
    recorded = {name: best.get(f"val_{name}") for name in metrics}
    missing = {name: metric for name, metric in metrics.items() if f"val_{name}" not in best}
    found: dict[SplitName, Mapping[str, float | None]] = {}
    if "val" in splits:
        found["val"] = recorded | (_evaluated(trained, "val", missing, options) if missing else {})
    if "test" in splits:
        found["test"] = _evaluated(trained, "test", metrics, options)
    return TrialResult(trial, found, int(best["epoch"]), summary.epochs, seconds, trained.trainable)


def _evaluated(
    trained: TrainedRun, split: SplitName, metrics: Mapping[str, Metric], options: ComputeOptions
) -> dict[str, float | None]:
    from ftkit.evaluation.trained_runs import predict_split
    from ftkit.metrics.report import evaluate_outputs
    from ftkit.metrics.selection import check_defined

    predicted = predict_split(trained, split, options)
    support, images = predicted.outputs.support.tolist(), len(predicted.names)
    check_defined(metrics, predicted.task.name, support, images, predicted.classes, "--metric", f"{split} images")
    return dict(evaluate_outputs(predicted.outputs, metrics).values)


def mean_and_spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and standard deviation over seeds; None where a value is missing, or one value has no spread."""
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    if len(numbers) < len(values) or not numbers:
        return None, None
    return fmean(numbers), stdev(numbers) if len(numbers) > 1 else None
