"""From a config and the plugins to a `Plan`, which `ftkit plan` prints and training executes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ftkit.config.choices import AUTO
from ftkit.config.load import Resolved, build
from ftkit.config.schema import Config
from ftkit.data.plugin_checks import check_description, error_prefix
from ftkit.data.scan.image_scan import scan_images, skip_files
from ftkit.data.scan.scan_progress import Notify
from ftkit.errors import RequestError
from ftkit.metrics.selection import run_metrics
from ftkit.parts.backbone import Backbone, Head
from ftkit.parts.dataset import Splits
from ftkit.parts.random_transforms import ImageTransform
from ftkit.parts.strategy import Strategy
from ftkit.parts.task import Task
from ftkit.planning.backbone_choice import name_backbone
from ftkit.planning.cost import count_parameters
from ftkit.planning.plan_checks import check_plan
from ftkit.planning.preprocessing_overrides import choose_preprocessing
from ftkit.planning.run_data.run_splits import load_splits, require_classes
from ftkit.planning.run_data.task_choice import choose_task, labels_of_task
from ftkit.planning.run_data.validation_images import (
    choose_validation,
    fold_sizes,
    is_cross_fitted,
    with_one_recipe,
)
from ftkit.planning.run_plan import Plan, ProbeUse
from ftkit.planning.teacher import find_teacher
from ftkit.planning.weight_source import WeightSource, fetch_weights, require_head, weights_for
from ftkit.runs.run_folder import RunFolder
from ftkit.strategies.schedule import Schedule, make_schedule
from ftkit.transforms.augmentation import Augmentation
from ftkit.transforms.preprocessing import Preprocessing


def make_plan(
    resolved: Resolved, tell: Notify | None = None, run: RunFolder | None = None, fetch: bool = False
) -> Plan:
    """Resolve a config against the plugins and the data, and scan the images.

    Args:
        tell: Called with a line of text before a long scan.
        run: The run to resume. Its images are not scanned again, since it must train on the same ones; the file of its
            initial weights is needed only if it has no checkpoint.
        fetch: Download pretrained weights that aren't on this machine before the images are scanned.

    Raises:
        RequestError: A name, an option, the data or their combination can't be used.
        FtkitError: With `fetch`, the weights can't be downloaded.
    """
    if run is not None:
        resolved = with_one_recipe(resolved)  # The config of a run names the choices; older versions made none.
    strategy: Strategy = build(resolved, "strategy")
    resolved, splits, notes = _with_data(_without_epochs(resolved, strategy))
    backbone = _backbone(resolved)
    splits = labels_of_task(resolved, splits)
    config = resolved.config
    weights = weights_for(resolved, backbone, strategy, None if run is None else run.path)
    head = Head(config.head.hidden, config.head.dropout)
    if config.keep_head and run is None:
        notes = (*notes, *require_head(weights, head, splits.classes))
    preprocessing = _preprocessing(config, weights, backbone)
    backbone = backbone.for_size(preprocessing.size)
    schedule = _schedule(config, strategy, backbone)
    plan = Plan(
        resolved=resolved,
        backbone=backbone,
        strategy=strategy,
        schedule=schedule,
        splits=splits,
        preprocessing=preprocessing,
        **_parts(resolved, len(splits.classes)),
        weights=weights,
        head=head,
        group_parameters=count_parameters(backbone, schedule.groups, len(splits.classes), head, preprocessing.channels),
        probe=choose_probe(resolved, strategy, weights),
        teacher=find_teacher(resolved, splits),
        notes=notes,
        fold_sizes=fold_sizes(config, splits),
    )
    check_plan(plan)  # Errors of the request should come before the images are read.
    if fetch:
        fetch_weights(weights, tell)
    return check_plan(_without_unreadable(plan, tell, run))


def _with_chosen_validation(resolved: Resolved, splits: Splits) -> Resolved:
    """The request that names the choice of `auto`, so that a run keeps it if the rule changes."""
    chosen = {"validation": choose_validation(resolved, splits)}
    return replace(resolved, config=resolved.config.model_copy(update=chosen))


def _with_data(resolved: Resolved) -> tuple[Resolved, Splits, tuple[str, ...]]:
    """The request with what the data decides in place of `auto`, the splits, and notes on both."""
    if resolved.config.backbone != AUTO:
        _backbone(resolved)  # Its errors should come before the data is read.
    splits, notes = load_splits(resolved)
    resolved = _with_chosen_validation(resolved, splits)
    require_classes(splits, is_cross_fitted(resolved.config))
    resolved = choose_task(name_backbone(resolved, splits), splits)
    return resolved, splits, (*resolved.notes, *notes)


def _backbone(resolved: Resolved) -> Backbone:
    name = resolved.config.backbone
    backbone = resolved.registry.backbones.get(name)
    with error_prefix(f"backbone {name!r}"):
        check_description(backbone)
    return backbone


def _preprocessing(config: Config, weights: WeightSource, backbone: Backbone) -> Preprocessing:
    chosen = choose_preprocessing(config.preprocessing, weights.preprocessing or backbone.preprocessing, backbone)
    return replace(chosen, value_range=config.dataset.given_range)  # A property of the data, not of the weights.


def _parts(resolved: Resolved, num_classes: int) -> dict[str, Any]:
    """The parts that follow from the config, by field of `Plan`."""
    augmentation: Augmentation = build(resolved, "augment")
    task: Task = build(resolved, "task")
    return {
        "curve": build(resolved, "lr_curve"),
        "task": task,
        "metrics": run_metrics(resolved, task, num_classes),
        "optimizer": build(resolved, "optimizer"),
        "loss": build(resolved, "loss"),
        "augmentation": augmentation,
        "image_transforms": (*_of_level(resolved, augmentation), *build(resolved, "image_transforms")),
        "batch_transforms": build(resolved, "batch_transforms"),
        "callbacks": build(resolved, "callbacks"),
    }


def _of_level(resolved: Resolved, augmentation: Augmentation) -> tuple[ImageTransform, ...]:
    """The image transform that the augmentation level adds."""
    name = augmentation.image_transform
    return (resolved.registry.image_transforms.get(name)(),) if name else ()


def _schedule(config: Config, strategy: Strategy, backbone: Backbone) -> Schedule:
    planned = config.extended_from or config.epochs
    if planned > config.epochs:
        raise RequestError(f"extended_from is {planned}, but epochs is {config.epochs}", "raise epochs, or drop it")
    return make_schedule(strategy, backbone, planned, config.strategy.name).extended(config.epochs - planned)


def _without_unreadable(plan: Plan, tell: Notify | None, run: RunFolder | None) -> Plan:
    """The plan without unreadable images."""
    if run is not None:
        return replace(plan, splits=skip_files(plan.splits, run.left_out()))
    config = plan.config
    found = scan_images(
        plan.splits, config.on_bad_image, tell, config.dataset.given_range, scan=config.scan, seed=config.seed
    )
    plan = replace(plan, splits=found.splits, findings=found.findings, notes=(*plan.notes, *found.notes))
    return plan if found.value_range is None else _with_range(plan, found.value_range)


def _with_range(plan: Plan, value_range: tuple[float, float]) -> Plan:
    """The plan with a value range, so that resumed runs and predictions read images with the same one."""
    dataset = plan.config.dataset.model_copy(update={"value_range": value_range})
    config = plan.config.model_copy(update={"dataset": dataset})
    return replace(
        plan,
        resolved=replace(plan.resolved, config=config),
        preprocessing=replace(plan.preprocessing, value_range=value_range),
    )


def _without_epochs(resolved: Resolved, strategy: Strategy) -> Resolved:
    """The request with 0 epochs if the strategy trains none; an explicit number of epochs is refused then."""
    if strategy.probe != "only":
        return resolved
    if resolved.config.epochs and resolved.is_explicit("epochs"):
        raise RequestError(
            f"{resolved.where('epochs')}: strategy {resolved.config.strategy.name!r} trains no epochs", "leave it out"
        )
    return replace(resolved, config=resolved.config.model_copy(update={"epochs": 0}))


def choose_probe(resolved: Resolved, strategy: Strategy, weights: WeightSource) -> ProbeUse:
    """Whether the head is initialized by the probe: with pretrained weights, unless `probe` is false.

    Raises:
        RequestError: The probe is requested or needed by the strategy, and isn't possible.
    """
    config = resolved.config
    asked = strategy.probe != "usual" or (config.probe and resolved.is_requested("probe"))
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
