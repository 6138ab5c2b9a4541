"""Config and plugins resolved to a `Plan`.

`ftkit plan` prints it, training executes it, the run folder keeps it; nothing is decided later.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ftkit.config.choices import LISTS
from ftkit.config.load import Resolved, build
from ftkit.data.balance import balance_notes
from ftkit.data.plugin_checks import check_description, error_prefix
from ftkit.data.scan.image_scan import Tell, leave_out, scan_images
from ftkit.errors import RequestError, plural
from ftkit.metrics.selection import check_defined, run_metrics
from ftkit.optim.optimizer_options import FIRST_RATE_ALONE
from ftkit.optim.rates import check_group_rates
from ftkit.parts.backbone import Head
from ftkit.parts.dataset import Split
from ftkit.parts.strategy import Strategy
from ftkit.planning.cost import count_parameters
from ftkit.planning.preprocessing_overrides import choose_preprocessing
from ftkit.planning.run_plan import Plan, ProbeUse
from ftkit.planning.run_splits import load_splits, require_classes
from ftkit.planning.weight_source import WeightSource, choose_weights, require_head, weights_of_run
from ftkit.plugin_errors import plugin_boundary
from ftkit.plugins.optional_packages import is_installed
from ftkit.runs.run_folder import RunFolder
from ftkit.strategies.schedule import Schedule, make_schedule
from ftkit.transforms.augmentation import check_channels

TASK = "multiclass"
"""The kind of targets that a run has."""
NOT_YET = ("image_transforms", "batch_transforms")
"""Sections of the config that nothing in a run takes yet."""


def make_plan(resolved: Resolved, tell: Tell | None = None, run: RunFolder | None = None) -> Plan:
    """Decide everything that a config leaves to plugins and data, and look at the images.

    Args:
        tell: Called with a line where looking at the images takes long.
        run: One that goes on. Then no image is looked at: it must see the same ones as before, whatever has broken
            since; and the file of its first weights is needed only where it has no checkpoint.

    Raises:
        RequestError: A name, an option, the data or their combination can't be used.
    """
    strategy: Strategy = build(resolved, "strategy")
    if strategy.probe == "only":
        resolved = _without_epochs(resolved)
    config, backbone = resolved.config, resolved.registry.backbones.get(resolved.config.backbone)
    with error_prefix(f"backbone {config.backbone!r}"):
        check_description(backbone)
    splits, notes = load_splits(resolved)
    require_classes(splits)
    if run is None:
        weights = choose_weights(resolved, backbone, strategy)
    else:
        weights = weights_of_run(resolved, backbone, strategy, run.path)
    head = Head(config.head.hidden, config.head.dropout)
    if config.keep_head and run is None:
        notes = (*notes, *require_head(weights, head, splits.classes))
    preprocessing = replace(
        choose_preprocessing(config.preprocessing, weights.preprocessing or backbone.preprocessing, backbone),
        value_range=config.dataset.given_range,  # The data's, whatever the weights were trained on.
    )
    backbone = backbone.for_size(preprocessing.size)
    planned = config.extended_from or config.epochs
    if planned > config.epochs:
        raise RequestError(f"extended_from is {planned}, but epochs is {config.epochs}", "raise epochs, or drop it")
    schedule = make_schedule(strategy, backbone, planned, config.strategy.name).extended(config.epochs - planned)
    plan = Plan(
        resolved=resolved,
        backbone=backbone,
        strategy=strategy,
        curve=build(resolved, "lr_curve"),
        loss=build(resolved, "loss"),
        schedule=schedule,
        splits=splits,
        preprocessing=preprocessing,
        augmentation=build(resolved, "augment"),
        **{section: build(resolved, section) for section in LISTS if section != "metrics"},
        metrics=run_metrics(resolved, len(splits.classes)),
        weights=weights,
        head=head,
        group_parameters=count_parameters(backbone, schedule.groups, len(splits.classes), head, preprocessing.channels),
        probe=choose_probe(resolved, strategy, weights),
        notes=notes,
    )
    _means_checked(plan)  # What else is wrong with the request should be said before the images are read.
    return _means_checked(_screened(plan, tell, run))


def _screened(plan: Plan, tell: Tell | None, run: RunFolder | None) -> Plan:
    """The plan without the images that can't be read, or the error that says which these are."""
    if run is not None:
        return replace(plan, splits=leave_out(plan.splits, run.left_out()))
    found = scan_images(plan.splits, plan.config.on_bad_image, tell, plan.config.dataset.given_range)
    plan = replace(plan, splits=found.splits, findings=found.findings, notes=(*plan.notes, *found.notes))
    return plan if found.value_range is None else _in_range(plan, found.value_range)


def _in_range(plan: Plan, value_range: tuple[float, float]) -> Plan:
    """The plan with the range of values on record, so that a run that goes on and predictions read images alike."""
    dataset = plan.config.dataset.model_copy(update={"value_range": value_range})
    config = plan.config.model_copy(update={"dataset": dataset})
    return replace(
        plan,
        resolved=replace(plan.resolved, config=config),
        preprocessing=replace(plan.preprocessing, value_range=value_range),
    )


def _means_checked(plan: Plan) -> Plan:
    """The plan with what is worth saying of augmentation, rates and balance.

    Raises:
        RequestError: One of them would have no effect.
    """
    config, where = plan.config, plan.resolved.where
    assert plan.splits.train is not None, "make_plan refuses data without a training split"
    assert plan.splits.val is not None, "make_plan refuses data without a validation split"
    _check_metrics(plan, plan.splits.val)
    _require_trackers(config.tracker)
    _require_support(plan)
    check_channels(plan.augmentation, plan.preprocessing.channels)
    _check_cached_augmentations(plan)
    notes = random_notes(plan.weights, config.allow_partial, plan.schedule, config.strategy.name)
    notes += check_group_rates(config.group_lr, plan.schedule, config.strategy.name, where)
    notes += _check_callbacks(plan) + _check_patience(plan) + _rate_notes(plan)
    return replace(plan, notes=plan.notes + notes + balance_notes(config.balance, plan.splits.train.labels))


def _check_metrics(plan: Plan, val: Split) -> None:
    """Check that the monitored metric, and those that the config lists, have a value on the validation images."""
    listed = [choice.name for choice in plan.config.metrics]
    for key, names in (("monitor", [plan.config.monitor]), ("metrics", listed)):
        asked = {name: plan.metrics[name] for name in names}
        check_defined(asked, val.labels, plan.splits.classes, plan.resolved.where(key), "validation images")


def _check_patience(plan: Plan) -> tuple[str, ...]:
    """A note where patience can't stop the run before its end.

    Raises:
        RequestError: `patience_from` was asked for, and there is no patience.
    """
    config, where = plan.config, plan.resolved.where
    if config.patience is None:
        if _is_explicit(plan.resolved.sources.get("patience_from", "")):
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
    """What the optimizer makes of the learning rates, where it is something else than the plan's table says.

    Raises:
        RequestError: A curve was asked for, and the optimizer doesn't follow any.
    """
    name, sources = plan.config.optimizer.name, plan.resolved.sources
    if not plan.config.epochs:
        return ()
    if name in FIRST_RATE_ALONE:
        why = f"optimizer {name} takes the learning rate for the first step of a weight alone"
        asked = next(
            (key for key in sources if key.partition(".")[0] == "lr_curve" and _is_explicit(sources[key])), None
        )
        if asked is not None:
            raise RequestError(
                f"{plan.resolved.where(asked)} has no effect: {why}", "drop it, or choose another optimizer"
            )
        return (f"{why}: no curve has an effect, and later rates aren't those of the plan",)
    highest = max(rate for row in range(plan.config.epochs) for rate in plan.peak_rates(row).values())
    reached = 1 / plan.steps**0.5
    if name == "adafactor" and highest > reached:
        return (f"optimizer {name} lowers every learning rate to 1/sqrt(step): at the end to {reached:.2g} at most",)
    return ()


def _is_explicit(source: str) -> bool:
    """Whether a setting was given for this run; a file may only repeat defaults, as the one saved with a run does."""
    return source.startswith(("--", "FTKIT_"))


def _check_cached_augmentations(plan: Plan) -> None:
    """Refuse `cache.augmentations` where it has no effect."""
    reason = plan.cache_policy.reason_without_effect()
    if reason and _is_explicit(plan.resolved.sources.get("cache.augmentations", "")):
        raise RequestError(f"{plan.resolved.where('cache.augmentations')} has no effect: {reason}", "drop it")


def _require_trackers(names: Iterable[str]) -> None:
    """Refuse trackers that aren't installed; each is the name of its package and of the extra that brings it."""
    for name in names:
        if not is_installed(name):
            raise RequestError(f"tracker {name!r} isn't installed", f"pip install 'ftkit[{name}]', or drop --tracker")


def _require_support(plan: Plan) -> None:
    """Refuse parts that nothing takes.

    Raises:
        RequestError: The loss is for another task, or a section lists parts that aren't supported yet.
    """
    config, where = plan.config, plan.resolved.where
    if TASK not in plan.loss.tasks:
        raise RequestError(
            f"{where('loss.name')}: loss {config.loss.name!r} is for {' and '.join(plan.loss.tasks)} targets, and the "
            f"targets are {TASK}",
            "choose another loss, such as cross-entropy",
        )
    for section in NOT_YET:
        if getattr(config, section):
            raise RequestError(f"{where(section)}: not supported yet", "drop it")


def _check_callbacks(plan: Plan) -> tuple[str, ...]:
    """Let each callback refuse the run, or describe what it does.

    Raises:
        RequestError: A callback can't work in it.
    """
    config, described, notes = plan.config, plan.to_json() if plan.callbacks else {}, list[str]()
    for choice, callback in zip(config.callbacks, plan.callbacks, strict=True):
        if callback.needs_whole_weights and (config.fsdp or config.zero_stage):
            flag = "--fsdp" if config.fsdp else "--zero-stage"
            raise RequestError(
                f"callback {choice.name!r} needs whole weights in each process, and {flag} shards them",
                "drop one of the two",
            )
        with plugin_boundary(f"check of callback {choice.name!r}", callback):
            callback.check(described)
            notes.append(callback.describe())
    return tuple(note for note in notes if note)


def _without_epochs(resolved: Resolved) -> Resolved:
    """For a strategy that trains no epochs: a number of them given on the command line is refused."""
    if resolved.config.epochs and _is_explicit(resolved.sources.get("epochs", "")):
        raise RequestError(
            f"{resolved.where('epochs')}: strategy {resolved.config.strategy.name!r} trains no epochs", "leave it out"
        )
    return replace(resolved, config=resolved.config.model_copy(update={"epochs": 0}))


def random_notes(weights: WeightSource, partial: bool, schedule: Schedule, strategy: str) -> tuple[str, ...]:
    """A note where layers that may be random stay frozen: what is above them trains on what they happen to give."""
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


def choose_probe(resolved: Resolved, strategy: Strategy, weights: WeightSource) -> ProbeUse:
    """Whether the head is solved first: with pretrained weights it is, unless told not to.

    Raises:
        RequestError: It was asked for and can't be.
    """
    config = resolved.config
    # A file may only repeat the default, as the config saved with a run does; a flag is meant.
    where = resolved.sources.get("probe", "")
    asked = strategy.probe != "usual" or (config.probe and (where == "probe" or _is_explicit(where)))
    reasons = {
        "--no-probe is given": not config.probe,
        "weights are none": weights.kind == "none",
        "the head is kept": config.keep_head,
        "the head has a hidden layer": config.head.hidden is not None,
    }
    reason = next((text for text, holds in reasons.items() if holds), None)
    if reason is None:
        return "required" if asked else "usual"
    if asked:
        raise RequestError(
            f"strategy {config.strategy.name!r} solves the head first, but {reason}"
            if strategy.probe != "usual"
            else f"{resolved.where('probe')}: the head can't be solved first, since {reason}",
            "change one of the two",
        )
    return None
