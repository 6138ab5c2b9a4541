"""What a plan says of a run: one line for each subject."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from ftkit.cli.output.backbone_descriptions import preprocessing_text
from ftkit.cli.output.descriptions import full_count, short_count, time_text
from ftkit.config.choices import AUTO
from ftkit.errors import one_line, plural

if TYPE_CHECKING:
    from ftkit.planning.run_plan import Plan
    from ftkit.recipe_search.search_record import RecipeTrial


def facts(plan: Plan) -> Iterator[tuple[str, str]]:
    """The lines of a plan as name and value."""
    config = plan.config
    total = None if plan.group_parameters is None else sum(plan.group_parameters.values())
    counts = ", ".join(f"{name} {len(split):,}" for name, split in plan.splits.present())
    yield "data", f"{config.dataset.name}: {plan.num_classes} classes ({_few(plan.splits.classes)}); {counts}"
    yield from _trainings(plan)
    head = f"a head for {plan.num_classes} classes{_head(plan)}"
    yield "backbone", f"{plan.backbone.name}: {full_count(total)} parameters with {head}{_rates(plan)}"
    yield "weights", plan.weights.describe() + ("; head kept" if config.keep_head else "")
    yield "preprocessing", preprocessing_text(plan.preprocessing)
    yield "augment", config.augment.name + _changes(plan)
    if plan.image_transforms:
        added = [plan.augmentation.image_transform] if plan.augmentation.image_transform else []
        names = added + [item.name for item in config.image_transforms]
        yield "transforms", f"{_parts(names, plan.image_transforms)}; on each training image, after the crop"
    if plan.batch_transforms:
        names = [item.name for item in config.batch_transforms]
        each = "one of them by chance on" if len(names) > 1 else "on"
        yield "batches", f"{_parts(names, plan.batch_transforms)}; {each} each training batch"
    if plan.callbacks:
        yield "callbacks", _parts([item.name for item in config.callbacks], plan.callbacks)
    if plan.probe:
        yield "probe", "the head is initialised by logistic regression on frozen features"
    yield from _cache(plan)
    optimizer = f"{config.optimizer.name}, lr {config.optimizer.rate:g}{_changed(plan.optimizer)}"
    yield "optimizer", f"{optimizer}; {_curve(plan)}"
    yield from _regularisation(plan)
    yield "loss", config.loss.name + _changed(plan.loss) + _weighting(plan)
    if plan.teacher is not None:
        taught = f"weight {config.distillation.weight:g}, temperature {config.distillation.temperature:g}"
        seen = "the augmented images of each step, at its own size and normalization"
        yield "teacher", f"{plan.teacher.card.backbone.name} of {plan.teacher.folder}: {taught}; it sees {seen}"
    # What `auto` selects is unknown without torch.
    yield "precision", config.precision + (", by processor and network" if config.precision == "auto" else "")
    yield from _steps(plan)
    chosen = "between first and last weights, by out-of-fold" if plan.fold_sizes else "by validation"
    label = one_line(plan.metrics[config.monitor].label)
    yield "final model" if plan.fold_sizes else "best epoch", f"{chosen} {label}{_patience(plan)}"
    if plan.averaging is not None:
        yield "averages", plan.averaging.describe()


def _trainings(plan: Plan) -> Iterator[tuple[str, str]]:
    """The search and the folds, where a run is of more than one training."""
    from ftkit.recipe_search.recipes import searched_recipes, why_no_race

    recipes = searched_recipes(plan)
    if recipes:
        yield "recipes" if plan.config.budget == AUTO else "search", _search(plan, recipes)
    elif plan.config.budget == AUTO and plan.resolved.is_requested("budget"):
        yield "recipes", f"none are compared: {why_no_race(plan)}"
    if plan.fold_sizes:
        yield "folds", _folds(plan)


def _search(plan: Plan, recipes: Sequence[RecipeTrial]) -> str:
    """The recipes of a search; the other lines of the plan are those of the config as it is."""
    from ftkit.recipe_search.recipes import fixed_keys, race_samples

    budget, names = plan.config.budget, ", ".join(trial.name for trial in recipes)
    if not isinstance(budget, float):
        samples = race_samples(plan)
        how = "on the validation images by a training of each"
        if plan.fold_sizes:
            how = f"on out-of-fold images by {len(recipes) * len(plan.fold_sizes)} trainings or fewer"
        elif samples:
            how += f" on {samples['train_samples']:,} images, of which the best one is then trained on all"
        return f"{names}, compared {how}; lines below are of the first (--budget none trains it alone)"
    fixed = fixed_keys(plan.resolved)
    kept = f"; set and not changed: {', '.join(fixed)}" if fixed else ""
    where = "out-of-fold images" if plan.fold_sizes else "the validation split"
    return f"{time_text(budget)}: {names}, then changes of the best, compared on {where}{kept}"


def _folds(plan: Plan) -> str:
    """The folds of a cross-fitted run, and its final model."""
    train, val = plan.images
    few, many = min(plan.fold_sizes), max(plan.fold_sizes)
    sizes = f"{val:,}" if few == many else f"{few:,} or {many:,}" if many - few == 1 else f"{few:,} to {many:,}"
    return (
        f"{len(plan.fold_sizes)}, trained one after another, which takes {len(plan.fold_sizes)} times as long: about "
        f"{train:,} training and {sizes} validation images each; steps and memory below are those of one fold"
    )


def _steps(plan: Plan) -> Iterator[tuple[str, str]]:
    """Steps, batch sizes, and the processes that share them."""
    config = plan.config
    yield (
        "steps",
        f"{plan.batches.steps:,} per epoch x {plural(config.epochs, 'epoch')} = {plan.steps:,}; "
        f"{plural(plan.batches.effective, 'image')} per step ({_division(plan)} x {plan.world_size} "
        f"process{'es' if plan.world_size > 1 else ''})",
    )
    if plan.world_size > 1:
        yield (
            "processes",
            f"{plan.world_size}, each with batches of {plan.batches.batch_size}; learning rates are not scaled",
        )
    if config.fsdp:
        yield "fsdp", "weights, gradients and optimizer state are sharded over the processes"
    if config.zero_stage:
        sharded = "optimizer state is" if config.zero_stage == 1 else "gradients and optimizer state are"
        yield "deepspeed", f"{sharded} sharded over the processes"


def _division(plan: Plan) -> str:
    """The images per step of each process; with `auto`, how they are divided isn't known yet."""
    size, accumulate = plan.config.batch_size, plan.config.accumulate
    return str(plan.batches.batch_size) if size == AUTO else f"{size} x {accumulate} accumulated"


def _rates(plan: Plan) -> str:
    """The rates of the backbone's own stochastic depth and dropout, where they are set."""
    rates = {"drop path": plan.config.drop_path, "dropout": plan.config.backbone_dropout}
    return "".join(f", {name} {rate:g}" for name, rate in rates.items() if rate is not None)


def _patience(plan: Plan) -> str:
    wanted, start = plan.config.patience, plan.patience_start
    if wanted is None:
        return ""
    since = f", counted from epoch {start + 1}, the start of the last phase" if start else ""
    return f"; early stopping after {plural(wanted, 'epoch')} without improvement{since}"


def _changed(part: Any) -> str:
    """The options of a part that differ from their defaults."""
    values = {f.name: getattr(part, f.name) for f in fields(part) if f.init and getattr(part, f.name) != f.default}
    return "".join(f", {name} {value}" for name, value in values.items())


def _parts(names: Iterable[str], parts: Iterable[Any]) -> str:
    """Parts by name, with the options that differ from their defaults."""
    return "; ".join(name + _changed(part) for name, part in zip(names, parts, strict=True))


def _curve(plan: Plan) -> str:
    warmup = f" after {plan.curve.warmup_epochs:g} epochs of warm-up" if plan.curve.warmup_epochs else ""
    return f"{plan.config.lr_curve.name} curve{warmup}"


def _changes(plan: Plan) -> str:
    """The augmentations in use, with their values."""
    values = asdict(plan.augmentation)
    if not values.get("erase"):
        values.pop("erase_scale", None)
    shown = [name if value is True else f"{name} {_value(value)}" for name, value in values.items() if value]
    return f": {', '.join(shown)}" if shown else ""


def _value(value: float | tuple[float, float]) -> str:
    return f"{value[0]:.3g} to {value[1]:.3g}" if isinstance(value, tuple) else f"{value:.3g}"


def _cache(plan: Plan) -> Iterator[tuple[str, str]]:
    """The use of the activation cache and of the cache of decoded images."""
    config, uses = plan.config.cache, plan.cache_by_phase
    if config.decoded not in (AUTO, "off"):
        yield "decoded", f"decoded images are cached {'in memory' if config.decoded == 'ram' else 'on disk'}"
    policy = plan.cache_policy
    if policy.disabled:
        yield "cache", f"off ({policy.disabled}): frozen layers are computed in each epoch"
        return
    if policy.batch_transforms or policy.taught:
        used = "for the probe only" if policy.probe else "off"
        yield "cache", f"{used} ({policy.no_training}): frozen layers are computed in each epoch"
        return
    augmentations = plural(policy.variants, "cached augmentation")
    if uses is None:
        yield (
            "cache",
            f"frozen layers are computed once for {augmentations} per image, if the network can be cut in two and it "
            "saves time",
        )
        return
    served = [(phase, use) for phase, use in zip(plan.schedule.phases, uses, strict=True) if use.cut is not None]
    if not served:
        return
    from ftkit.files.cache_folder import activation_folder

    # The precision that `auto` selects is unknown without torch.
    or_half = ", or half as much in 16 bits," if plan.config.precision == "auto" else ""
    epochs = sum(phase.stop - phase.start for phase, _ in served)
    passes = sum(use.passes for _, use in served) + bool(plan.probe)
    times = "once" if passes == 1 else f"{passes} times"
    nbytes = sum(use.nbytes for _, use in served)  # None where the probe has stored the same already.
    size = f"~{short_count(nbytes)}B{or_half} " if nbytes else ""
    yield (
        "cache",
        f"{augmentations} per image; frozen layers are computed {times} instead of {epochs + bool(plan.probe)}; "
        f"{size}kept in {activation_folder(config.dir)}",
    )
    for phase, use in zip(plan.schedule.phases, uses, strict=True):
        if "limit" in use.reason:
            yield "", f"not in epochs {phase.start + 1} to {phase.stop}: {use.reason} of {short_count(config.limit)}B"


def _regularisation(plan: Plan) -> Iterator[tuple[str, str]]:
    """Weight decay and gradient clipping, if used."""
    config = plan.config
    if plan.optimizer.decay:
        decayed = "all parameters" if config.decay_all else "all but biases and normalisation parameters"
        yield "weight decay", f"{plan.optimizer.decay} on {decayed}"
    if config.clip_grad is not None:
        yield "gradient", f"norm clipped to {config.clip_grad:g}"


def _weighting(plan: Plan) -> str:
    config, weights = plan.config, plan.class_weights
    smoothed = f", label smoothing {config.label_smoothing:g}" if config.label_smoothing else ""
    if config.balance == "sampler":
        how = "with equal frequency of classes" if plan.task.exclusive else "by the weight of their rarest class"
        return f"{smoothed}; images sampled {how}"
    if config.balance == "weights":
        return f"{smoothed}; class weights {min(w for w in weights if w):.3g} to {max(weights):.3g}"
    return smoothed


def _head(plan: Plan) -> str:
    described = plan.head.describe()
    return f" ({described})" if described else ""


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 6 else ", ".join(names[:5]) + ", ..."
