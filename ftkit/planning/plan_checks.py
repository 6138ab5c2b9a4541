"""Checks of a plan: combinations that can't work are refused, and settings with surprising effects get a note."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ftkit.config.choices import AUTO
from ftkit.data.balance import balance_notes
from ftkit.data.plugin_checks import error_prefix
from ftkit.errors import RequestError, one_line, plural
from ftkit.metrics.finite_outputs import NAMED
from ftkit.metrics.selection import check_defined
from ftkit.optim.rates import check_group_rates
from ftkit.parts.callback import replaces_weights
from ftkit.parts.dataset import Split
from ftkit.parts.task import class_counts
from ftkit.planning.averaging import check_averaging
from ftkit.planning.run_data.validation_images import validated_splits
from ftkit.planning.run_plan import Plan
from ftkit.planning.weight_source import WeightSource
from ftkit.plugin_errors import plugin_boundary
from ftkit.plugins.optional_packages import is_installed
from ftkit.strategies.schedule import Schedule
from ftkit.transforms.augmentation import check_channels
from ftkit.uncertainty.calibration import can_calibrate

UNMEASURED_BATCHES = "batch size auto: how many images fit at a time is tried on the device before the run starts"


def check_plan(plan: Plan) -> Plan:
    """The plan with notes on its settings.

    Raises:
        RequestError: A setting would have no effect, or something that it needs is missing.
    """
    config, where = plan.config, plan.resolved.where
    assert plan.splits.train is not None, "make_plan refuses data without a training split"
    _check_budget(plan)
    for validated in validated_splits(config, plan.splits):
        _check_metrics(plan, validated)
    _require_trackers(config.tracker)
    _check_balance(plan)
    _check_calibration(plan)
    check_channels(plan.augmentation, plan.preprocessing.channels)
    _check_cached_augmentations(plan)
    notes = _random_notes(plan.weights, config.allow_partial, plan.schedule, config.strategy.name)
    notes += check_group_rates(config.group_lr, plan.schedule, config.strategy.name, where)
    notes += () if plan.task.exclusive else _absent_notes(plan)
    notes += _check_callbacks(plan) + _check_patience(plan) + _rate_notes(plan) + check_averaging(plan)
    notes += (UNMEASURED_BATCHES,) if config.batch_size == AUTO and config.epochs else ()
    return replace(plan, notes=plan.notes + notes + balance_notes(config.balance, plan.splits.train.labels))


def _check_budget(plan: Plan) -> None:
    """Refuse a search where one model is trained, or where there is nothing to choose between."""
    config, where = plan.config, plan.resolved.where("budget")
    if config.budget in (None, AUTO):
        return
    if config.fold is not None:
        raise RequestError(f"{where}: a search trains all folds, and --fold trains one", "drop one of the two")
    if not config.epochs and config.strategy.name != "probe" and plan.resolved.is_explicit("epochs"):
        raise RequestError(f"{where}: a search compares trainings, and --epochs is 0", "drop one of the two")


def _absent_notes(plan: Plan) -> tuple[str, ...]:
    """Notes on the classes that no training or no validation image has."""
    notes = list[str]()
    for split, kind in ((plan.splits.train, "training"), (plan.splits.val, "validation")):
        counts = class_counts(split.labels, plan.num_classes) if split is not None else []
        absent = [name for name, count in zip(plan.splits.classes, counts, strict=False) if not count]
        if absent:
            few = ", ".join(map(repr, absent[:NAMED])) + (", ..." if len(absent) > NAMED else "")
            notes.append(one_line(f"no {kind} image has {plural(len(absent), 'class')} of {plan.num_classes}: {few}"))
    return tuple(notes)


def _check_metrics(plan: Plan, val: Split) -> None:
    """Check that the monitored metric, and those that the config lists, have a value on the validation images."""
    listed = [choice.name for choice in plan.config.metrics]
    support = class_counts(val.labels, plan.num_classes)
    for key, names in (("monitor", [plan.config.monitor]), ("metrics", listed)):
        asked = {name: plan.metrics[name] for name in names}
        check_defined(
            asked, plan.task.name, support, len(val), plan.splits.classes, plan.resolved.where(key), "validation images"
        )


def _check_patience(plan: Plan) -> tuple[str, ...]:
    """A note if patience can't stop the run before its last epoch.

    Raises:
        RequestError: `patience_from` is set without patience.
    """
    config, where = plan.config, plan.resolved.where
    if config.patience is None:
        if plan.resolved.is_explicit("patience_from"):
            raise RequestError(f"{where('patience_from')} has no effect without patience", "give --patience N too")
        return ()
    left = config.epochs - plan.patience_start
    if config.patience < left - 1 or not config.epochs:
        return ()
    if plan.patience_start:
        reason = f"the last phase has {plural(left, 'epoch')} (--set patience_from=start counts in all)"
    else:
        reason = f"it has {plural(left, 'epoch')}"
    return (f"patience {config.patience} can't stop the run before its end: {reason}",)


def _rate_notes(plan: Plan) -> tuple[str, ...]:
    """A note if the optimizer's learning rates differ from the planned ones.

    Raises:
        RequestError: A learning-rate curve is set, and the optimizer doesn't use it.
    """
    name, resolved = plan.config.optimizer.name, plan.resolved
    if not plan.config.epochs:
        return ()
    if not plan.optimizer.uses_curve:
        why = f"optimizer {name} uses the learning rate in the first step only"
        for key in resolved.sources:
            if key.partition(".")[0] == "lr_curve" and resolved.is_explicit(key):
                raise RequestError(
                    f"{resolved.where(key)} has no effect: {why}", "drop it, or choose another optimizer"
                )
        return (f"{why}: no curve has an effect, and later rates aren't those of the plan",)
    highest = max(rate for row in range(plan.config.epochs) for rate in plan.peak_rates(row).values())
    note = plan.optimizer.lr_note(highest, plan.steps)
    return (note,) if note else ()


def _check_cached_augmentations(plan: Plan) -> None:
    """Refuse `cache.augmentations` where it has no effect."""
    reason = plan.cache_policy.reason_without_effect()
    if reason and plan.resolved.is_explicit("cache.augmentations"):
        raise RequestError(f"{plan.resolved.where('cache.augmentations')} has no effect: {reason}", "drop it")


def _require_trackers(names: Iterable[str]) -> None:
    """Refuse trackers that aren't installed; package and extra have the tracker's name."""
    for name in names:
        if not is_installed(name):
            raise RequestError(f"tracker {name!r} isn't installed", f"pip install 'ftkit[{name}]', or drop --tracker")


def _check_balance(plan: Plan) -> None:
    """Refuse class weights where an image may have several classes: positive weights are the loss's."""
    if not plan.task.exclusive and plan.config.balance == "weights":
        raise RequestError(
            f"{plan.resolved.where('balance')}: weights are for one class per image, and the task is {plan.task.name}",
            "set loss.pos_weight=balanced to weight the positive targets of rare classes, or give --balance sampler",
        )


def _check_calibration(plan: Plan) -> None:
    """Refuse a calibration that was asked for where the probabilities are of another kind."""
    method, where = plan.config.calibration, plan.resolved.where("calibration")
    if method not in ("auto", "off") and not can_calibrate(plan.task):
        raise RequestError(
            f"{where}: the probabilities of task {plan.task.name} aren't a softmax or a sigmoid", "give off"
        )


def _check_callbacks(plan: Plan) -> tuple[str, ...]:
    """Let each callback refuse the run, or describe what it does.

    Raises:
        RequestError: A callback can't work in it.
    """
    config, described, notes = plan.config, plan.to_json() if plan.callbacks else {}, list[str]()
    for number, (choice, callback) in enumerate(zip(config.callbacks, plan.callbacks, strict=True)):
        if plan.fold_sizes and replaces_weights(callback):
            raise RequestError(
                f"callback {choice.name!r} has no effect with kfold: the final model is made of the trained weights",
                "drop one of the two",
            )
        if callback.needs_whole_weights and (config.fsdp or config.zero_stage):
            flag = "--fsdp" if config.fsdp else "--zero-stage"
            raise RequestError(
                f"callback {choice.name!r} needs whole weights in each process, and {flag} shards them",
                "drop one of the two",
            )
        where = plan.resolved.where(f"callbacks.{number}.name")
        with error_prefix(where), plugin_boundary(f"check of callback {choice.name!r}", callback):
            callback.check(described)
            notes.append(callback.describe())
    return tuple(note for note in notes if note)


def _random_notes(weights: WeightSource, partial: bool, schedule: Schedule, strategy: str) -> tuple[str, ...]:
    """A note if layers that are initialized at random stay frozen."""
    frozen = schedule.initially_frozen()
    if not frozen or (weights.kind != "none" and not partial):
        return ()
    names, epochs = list(frozen), max(frozen.values())
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    until = "to the end" if epochs == len(schedule.rows) else f"for {epochs} epoch{'s' * (epochs > 1)}"
    if weights.kind != "none":
        return (
            f"what {weights.name} lacks is drawn at random, and strategy {strategy!r} keeps {shown} frozen {until}",
        )
    return (
        f"weights are none, and strategy {strategy!r} keeps {shown} frozen {until}: layers drawn at random; give "
        "pretrained weights, or --strategy scratch, which trains all of them",
    )


def why_no_base_rate(plan: Plan) -> str:
    """Why a plan has no use for a base learning rate; empty where it has."""
    config = plan.config
    if not config.epochs:
        return f"strategy {config.strategy.name!r} trains no epochs, so no learning rate is used"
    if set(plan.schedule.rows[-1]) <= config.group_lr.keys():
        return "every group that trains has its rate from group_lr"
    return ""
