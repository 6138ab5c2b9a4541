"""The recipes that a search tries: first some that suit different kinds of data, then changes of the best one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ftkit.config.choices import AUTO
from ftkit.config.field_types import Choice
from ftkit.config.load import Resolved, fill_choice, with_choice
from ftkit.config.schema import Config
from ftkit.distributed import launch_env
from ftkit.planning.run_plan import Plan
from ftkit.recipe_search.search_record import RecipeSearch, RecipeTrial

Changes = Mapping[str, Any]
"""New values of config keys. For a part, its name and options."""

AS_GIVEN = "as-given"
SOURCE = "the search for a recipe"
FACTOR = 10 / 3
"""Between the learning rates of recipes: three such steps are a factor of 37."""
LEVELS = ("none", "light", "standard", "strong")
SMOOTHING, MIXUP = 0.1, 0.2
PARTS = ("strategy", "augment")
RACING = (AS_GIVEN, "two-rates", "two-rates-new-head", "one-rate")
"""Recipes that race without a budget. The first has the probe too, at share 0 of the way to the last weights."""
MOST_RACED, MOST_RACED_OF_CLASS = 1000, 20
"""Training images of each recipe of a race on a validation split, where there are more than twice as many: this many,
or as many of each class, whichever is more. As many images validate it at most."""
ONE_PROCESS = "recipes are compared in one process only"
SEARCHED = ("strategy", "augment", "optimizer.lr", "probe", "epochs", "label_smoothing", "batch_transforms")
"""The keys that recipes change."""


def fixed_keys(resolved: Resolved) -> tuple[str, ...]:
    """The keys among `SEARCHED` that a flag, a variable or the library's caller sets: no recipe changes them."""
    return _searched_among(key for key in resolved.sources if resolved.is_requested(key))


def _searched_among(sources: Iterable[str]) -> tuple[str, ...]:
    """The keys among `SEARCHED` that have a source, for themselves or for an option below them."""
    known = tuple(sources)
    return tuple(key for key in SEARCHED if any(one == key or one.startswith(f"{key}.") for one in known))


def searched_recipes(plan: Plan) -> tuple[RecipeTrial, ...]:
    """The recipes that a run compares first; none where it has no search.

    With budget `auto` these are the recipes of a race; none where `why_no_race` has a reason.
    """
    if plan.config.budget is None:
        return ()
    if plan.config.budget != AUTO:
        return first_recipes(plan, fixed_keys(plan.resolved))
    return () if why_no_race(plan) else _racing(plan)


def why_no_race(plan: Plan) -> str | None:
    """Why a run with budget `auto` compares no recipes; None where it does."""
    config = plan.config
    if not config.epochs:
        return "no epochs are trained"
    if config.fold is not None:
        return "a single fold is trained"
    if plan.weights.kind == "none":
        return "the weights start at random"
    changed = {key for trial in _racing(plan) for key in trial.changes}
    set_keys = [key for key in _searched_among(plan.resolved.sources) if key in changed]
    if set_keys:
        return f"{set_keys[0]} is set"
    return ONE_PROCESS if max(launch_env.world(), plan.world_size) > 1 else None


def _racing(plan: Plan) -> tuple[RecipeTrial, ...]:
    return tuple(trial for trial in first_recipes(plan, ()) if trial.name in RACING)


def race_samples(plan: Plan) -> dict[str, int]:
    """The config keys that limit the images of each recipe, and their values; empty where all images are used."""
    train, val = plan.splits.train, plan.splits.val
    if isinstance(plan.config.budget, float) or plan.fold_sizes or train is None or val is None:
        return {}
    most = max(MOST_RACED, MOST_RACED_OF_CLASS * plan.num_classes)
    if len(train) <= 2 * most:
        return {}
    return {"train_samples": most, **({"val_samples": most} if len(val) > most else {})}


def first_recipes(plan: Plan, fixed: Collection[str]) -> tuple[RecipeTrial, ...]:
    """The recipes that are compared first: the probe, the config as it is, and trainings of all layers.

    They suit data that is more and more unlike that of the pretraining. Without what is fixed some may be the same.
    """
    rate = plan.config.optimizer.rate
    two_rates, one_rate = {"name": "full"}, {"name": "full", "backbone_lr_scale": 1.0}
    standard, new_head = {"augment": {"name": "standard"}}, {"probe": False}
    found: dict[str, Changes] = {
        "probe": {"strategy": {"name": "probe"}, "epochs": 0},
        AS_GIVEN: {},
        "two-rates": {"strategy": two_rates, **standard, "optimizer.lr": rate * FACTOR},
        "two-rates-new-head": {"strategy": two_rates, "optimizer.lr": rate * FACTOR, **new_head},
        "one-rate": {"strategy": one_rate, **standard, **new_head},
    }
    if plan.probe is None or {"strategy", "epochs"} & set(fixed):
        del found["probe"]
    return tuple(_new_ones(plan.resolved, found, fixed, ()))


def further_recipes(plan: Plan, search: RecipeSearch) -> tuple[RecipeTrial, ...]:
    """Changes of the best recipe that trains epochs, one at a time, that haven't been tried; none where none does."""
    trained = [one for one in search.trials if one.trained and with_changes(plan.resolved, one.changes).config.epochs]
    if not trained:
        return ()
    best = trained[0]
    for one in trained[1:]:
        if one.is_better(best, search.lower_is_better):
            best = one
    config = with_changes(plan.resolved, best.changes).config
    named = {f"{best.name}+{name}": {**best.changes, **changes} for name, changes in _single_changes(plan, config)}
    fixed = [key for key in search.fixed if key not in best.changes]
    return tuple(_new_ones(plan.resolved, named, fixed, search.trials))


def _single_changes(plan: Plan, config: Config) -> Iterator[tuple[str, Changes]]:
    rate, level = config.optimizer.rate, config.augment.name
    yield "higher-rate", {"optimizer.lr": rate * FACTOR}
    yield "lower-rate", {"optimizer.lr": rate / FACTOR}
    yield "longer", {"epochs": 2 * config.epochs}
    if level in LEVELS:
        place = LEVELS.index(level)
        for other in (*LEVELS[place + 1 : place + 2], *LEVELS[max(0, place - 1) : place]):
            yield f"augment-{other}", {"augment": {"name": other}}
    if not config.label_smoothing and plan.task.exclusive:
        yield "smoothing", {"label_smoothing": SMOOTHING}
    if not config.batch_transforms:
        yield "mixup", {"batch_transforms": [{"name": "mixup", "alpha": MIXUP}]}


def _new_ones(
    resolved: Resolved, named: Mapping[str, Changes], fixed: Collection[str], tried: Collection[RecipeTrial]
) -> Iterator[RecipeTrial]:
    """The recipes without changes of fixed keys that differ from each other and from those that were tried."""
    known = [with_changes(resolved, trial.changes).config for trial in tried]
    for name, changes in named.items():
        kept = {key: value for key, value in changes.items() if key not in fixed}
        config = with_changes(resolved, kept).config
        if config not in known:
            known.append(config)
            yield RecipeTrial(name, kept)


def with_changes(resolved: Resolved, changes: Changes) -> Resolved:
    """A request with the changes of a recipe."""
    for section in PARTS:
        if section in changes:
            options = {key: value for key, value in changes[section].items() if key != "name"}
            name = changes[section]["name"]
            resolved = with_choice(resolved, section, name, options, {f"{section}.name": SOURCE})
    return replace(resolved, config=_with_plain_values(resolved, changes))


def _with_plain_values(resolved: Resolved, changes: Changes) -> Config:
    config = resolved.config
    plain = {key: changes[key] for key in ("probe", "epochs", "label_smoothing") if key in changes}
    if "optimizer.lr" in changes:
        plain["optimizer"] = config.optimizer.model_copy(update={"lr": changes["optimizer.lr"]})
    if "batch_transforms" in changes:
        choices = [Choice.model_validate(one) for one in changes["batch_transforms"]]
        plain["batch_transforms"] = tuple(
            fill_choice(("batch_transforms", str(place)), choice, resolved.registry, {}, {})
            for place, choice in enumerate(choices)
        )
    return config.model_copy(update=plain)
